"""One Optuna search over one variant on one data set. No other package imports Optuna.

space     the search space of a variant, with fixed parameters
store     the Optuna store: opens studies, and reads their trials
driver    runs a study until the requested number of trials has finished
trial     one trial as a task for an executor
halving   which trials are pruned in a study of several objectives
summary   what a study shows: a line for each trial, and a table and plots at the end
results   the results of a study as plain values, for the comparison
"""
