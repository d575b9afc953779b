"""One Optuna search over one variant on one data set. No other package imports Optuna.

space     the search space of a variant, with fixed parameters
store     the Optuna store: opens studies, and reads their trials
sampler   which configuration is tried next
prior     the best configurations of other studies, which a study tries first
pruning   which trials end early, because they have little chance to become the best
budget    how many epochs or seconds the trials have spent, and may still spend
driver    runs a study until the requested number of trials has finished, or the budget is spent
trial     one trial as a task for an executor
summary   what a study shows: a line for each trial, and a table and plots at the end
results   the results of a study as plain values, for the comparison
"""
