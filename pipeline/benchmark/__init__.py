"""A fixed list of trainings, rerun for months, that says when something got worse.

verdict      statistics: pinned baseline, first look, confirmation, drift
judged       which series are judged, and how each stands
speed        how fast each case trains, beside a fixed piece of arithmetic
trainings    what a rerun is made of
rerun        trains, measures, logs and judges
history      what MLflow knows of a suite, and its baselines
changes      what changed since the baseline
summary      in words, as Markdown
page         one HTML file: status, sparklines, alarms
finish       what comes of a rerun: words, a page, a notification, an exit code
"""
