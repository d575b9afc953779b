"""Metrics and pictures of a trained model. Metrics are functions of arrays, or of a variant and data.

codes             codes of data, samples of posterior and prior, and the raw values that they are compared with
quick             the scores that every trial gets, on training and validation data
likelihood        log p(x) by importance sampling, and the density of samples by Parzen windows
ais               log p(x) by annealed importance sampling, which needs no encoder; rate and distortion
latents           which latent dimensions are used, and how close the codes are to the prior
probe             what a simple classifier reads from the codes, with few labels and with all
clusters          whether clusters of the codes agree with the classes
disentanglement   whether single latent dimensions correspond to single factors
samples           how samples compare with real examples, in the features of a classifier
classifier        that classifier: one for each data set, trained by a fixed recipe
anomaly           how well scores of a model find examples of other classes than a normal one
step_anomaly      how unusual each value and step of sequences is, and thresholds from training examples
detectors         detectors of anomalies that need no model, and how well scores find known anomalies
scores            scores of new examples, which do not depend on other examples
whole_series      results of windows, put back together on the series from which they were cut
ahead             forecasts of the steps after the end of series, as means and quantiles of draws
areas             areas under ROC and precision-recall curves, with standard errors
downstream        interpolation, samples of a class, augmentation
forecasts         how well the second half of sequences is forecast from the first
simple_forecasts  forecasts that need no model, and the seasons of series
hidden_values     how well values that are hidden from a model are predicted
imputation        expected values, and draws, of missing values given the observed ones
pictures          reconstructions, samples, traversals and others, as arrays of pixels
table_pictures    the same for tables, in which each column has a panel or a name
drawing           how figures become pixels, and how columns and classes are named and coloured
plot              plots of points, lines and bars, which are drawn in little time
series_pictures   sequences with a panel for each channel, with means, bands of quantiles, and marked steps
context           a model that is evaluated, how much is spent on it, and the scores that result
suite             all parts of an evaluation: `python -m pipeline.evaluate`
report            an evaluation as a table, as a file, and in MLflow
"""
