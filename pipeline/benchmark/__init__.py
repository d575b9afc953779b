"""Suites of fixed trainings that are rerun for months, and report when something got worse.

control_chart  statistics: baseline, first look, confirmation, drift
history        the reruns that MLflow has, their baselines, and what changed since a baseline
verdicts       which series get a verdict, and which
report         the summary, the page, the notification and the exit code of a rerun
cases          training and measuring the cases
speed          how fast each case trains, beside a fixed small training
rerun          one rerun: train, measure, log and assess

The first four only read and show: they import nothing that trains. README.md describes the method.
"""
