def link(tracker, view):
    return "http://127.0.0.1:5000/#/experiments/" + tracker.experiment
