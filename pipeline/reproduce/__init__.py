"""Repeats published results: `python -m pipeline.reproduce`.

task       trains the models of an anchor with one seed, and has them measured
holes      a table whose values are hidden at random
measure    what is measured of the trained models, once, on the test split
picture    the scores of several models over several seeds
"""
