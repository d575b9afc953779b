"""Repeats published results: `python -m pipeline.reproduce`.

task       trains the models of an anchor with one seed, and has them measured
measure    what is measured of the trained models, once, on the test split
"""
