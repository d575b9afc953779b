"""One Optuna search over one variant on one data set: the only place that imports Optuna.

space     what is searched: a variant's `suggest`, with pinned parameters
store     the Optuna study: opened, compared with what it was before, and freed of the dead
driver    ask, train, tell, until the asked number of trials is finished
display   the live view on the terminal, and the table at the end
results   what it found, in plain values, for whoever compares
figures   what the finished study looks like
"""
