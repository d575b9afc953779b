"""Metrics of a trained model. Each is a plain function of arrays, or of a variant and data; here is the list.

likelihood        log p(x) by importance sampling, and the density of samples by Parzen windows
ais               log p(x) by annealing, which needs no encoder; its gap; rate and distortion
latents           what the code uses, and how near the codes are to the prior
probe             what a simple classifier reads from the codes, with few labels and with all
clusters          whether groups in the codes are the classes
disentanglement   whether single dimensions stand for single causes
samples           how samples compare with real examples, in features of ...
judge             ... a small classifier, one a data set
uses              anomalies, missing values, interpolation, classes to order, forecasts, more data
subject           a model that is scored, and what is found of it
suite             all of them, on a trained model: `python -m pipeline.evaluate`
"""
