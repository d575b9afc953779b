"""Published figures beside ours: `python -m pipeline.reproduce`.

training   one training of an anchor, checkpointed and logged
measure    what is measured of the trained models, once, on the test split
"""
