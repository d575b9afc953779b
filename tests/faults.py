"""Faults that are planted one at a time into a copy of the pipeline, and the test that catches each.

python tests/faults.py                          all of them, in some minutes; exit code 1 if a fault is not caught
python tests/faults.py evaluate/likelihood      those of one module
python tests/faults.py evaluate/ trainer        those of a folder and of a module
"""

# ruff: noqa: E501 (a fault is a line of the table)
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    module: str  # a path without .py, relative to pipeline/ unless it begins with variants/
    what: str
    right: str  # text that occurs exactly once in the module
    wrong: str  # what replaces it
    tests: str  # the file that has to catch it: test_NAME.py


FAULTS = [
    Fault("variants/base/likelihoods", "log-normal: no change of variables", "+ self.spread.log() + log_x", "+ self.spread.log()", "observation"),
    Fault("variants/base/likelihoods", "Student's t: degrees of freedom in single precision", "self.log_tail.clamp(*LOG_DISPERSIONS).double().exp()", "self.log_tail.clamp(*LOG_DISPERSIONS).exp()", "observation"),
    Fault("variants/base/likelihoods", "gamma: a large ratio is cut off", "clamp(max=2 * LARGEST_LOG)", "clamp(max=LARGEST_LOG)", "observation"),
    Fault("variants/base/likelihoods", "negative binomial: x! forgotten", "- r.lgamma() - (x + 1).lgamma()", "- r.lgamma()", "observation"),
    Fault("variants/base/likelihoods", "negative binomial in single precision", "r, odds = log_r.exp(), output.double().clamp(max=LARGEST_LOG) - log_r\n        x = x.double()", "log_r = log_r.to(x.dtype)\n        r, odds = log_r.exp(), output.clamp(max=LARGEST_LOG) - log_r", "observation"),
    Fault("variants/base/likelihoods", "zero-inflated: other counts keep their probability", "of_zero, nll - F.logsigmoid(-logit))", "of_zero, nll)", "observation"),
    Fault("variants/base/likelihoods", "missing values count", "return values if known is None else torch.where(known, values, 0.0)", "return values", "observation"),
    Fault("variants/base/likelihoods", "missing values reach the gradient", "x = batch.x if known is None else torch.where(known, batch.x, 0.0)", "x = batch.x", "observation"),
    Fault("variants/base/likelihoods", "shares are of missing counts too", "shares = torch.where(is_count | is_empty, shares, -torch.inf)", "pass", "observation"),
    Fault("variants/base/likelihoods", "all samples have one exposure", "exposure = self._random_exposure(output) if", "exposure = self._typical_exposure(output) if", "observation"),
    Fault("variants/base/images", "the normalisation depends on the batch", "return nn.GroupNorm(groups, channels)", "return nn.BatchNorm2d(channels)", "networks"),
    Fault("variants/base/images", "a decoder of images hardly depends on its code", "self.channels = convolution(before.channels, after.channels, kernel=1)", "self.channels = convolution(before.channels, after.channels, kernel=1, gain=0.01)", "networks"),
    Fault("variants/base/images", "weights are stored in another order", "        self.is_in_unit =", "        self.to(memory_format=torch.channels_last)\n        self.is_in_unit =", "networks"),
    Fault("variants/base/images", "larger maps only of even sides", "(-(-side // 2) if side >= 8 else side", "(side // 2 if side >= 8 else side", "networks"),
    Fault("variants/base/contract", "auto is a residual network for binary images", 'if not is_large_image or spec.likelihood == "bernoulli":', "if not is_large_image:", "networks"),
    Fault("variants/base/contract", "a model does not say which network it has", "config.for_data(spec), spec", "config, spec", "networks"),
    Fault("study/space", "trials do not say which network they have", "return config.for_data(spec) if spec else config", "return config", "networks"),
    Fault("compare/request", "--fix is for all variants or none", 'if f.partition("=")[0] in config.__dataclass_fields__]', "]", "networks"),
    Fault("variants/base/networks", "encoders take missing values for zeros", "torch.ones_like(x) if observed is None else observed.to(x.dtype)", "torch.ones_like(x)", "contract"),
    Fault("variants/base/abstract", "scales lag behind the networks", '{"params": scales, "lr": SCALE_LR}', '{"params": scales}', "observation"),
    Fault("variants/base/abstract", "a forecast takes the first steps for a whole sequence", "observed = replace(whole, observed=known)", "observed = replace(whole, mask=in_prefix)", "continuations"),
    Fault("variants/base/abstract", "draws are weighted by the likelihood alone", "weight = log_prior + log_likelihood - mixture", "weight = log_likelihood", "continuations"),
    Fault("variants/base/sequences", "convolutions read padding", "h = F.silu(self.norm(x)) * mask[..., None]", "h = F.silu(self.norm(x))", "time_networks"),
    Fault("variants/base/sequences", "padding counts in the mean of joined steps", "return blocks / counts.clamp(min=1)[..., None], counts > 0", "return blocks / stride, counts > 0", "time_networks"),
    Fault("variants/base/sequences", "sequences are read backwards from their padding", "backwards = torch.where(mask, last - positions, positions)", "backwards = (x.shape[1] - 1 - positions)", "time_networks"),
    Fault("variants/base/sequences", "a decoder does not know the times", "self.clock(mask, None if batch is None else batch.elapsed)", "self.clock(mask, None)", "time_networks"),
    Fault("variants/hvae", "levels have information where there are no steps", "q = _where(known[n], ", "q = _where(None, ", "time_networks"),
    Fault("model", "codes of sequences are decoded to as many steps as channels", "codes.new_zeros(len(codes), *steps, *spec.shape)", "codes.new_zeros(len(codes), *spec.shape)", "model"),
    Fault("evaluate/step_anomaly", "a threshold is kept for all smaller shares", "most = min(max(n, 1), round(1 / SHARES[0]))", "most = max(n, 1)", "step_anomaly"),
    Fault("variants/base/contract", "missing steps count, not missing values", "self.mask[..., None] & self.observed", "self.mask[..., None]", "contract"),
    Fault("variants/base/contract", "all classes are equally frequent", "self.class_shares or (1", "(1", "likelihood"),
    Fault("variants/vae", "the mean of log-weights is maximised", ".logsumexp(1) - math.log(k)", ".mean(1)", "math"),
    Fault("variants/cvae", "the bound lacks -log p(y)", "kl.sum(1) + self.label_nll(c)", "kl.sum(1)", "variants"),
    Fault("variants/cvae", "holes are kept as values", "self.observed_pixels & batch.observed", "self.observed_pixels", "variants"),
    Fault("variants/vrae", "a decoder reads means of counts", "any(group.kind not in DENSITIES for group in self.spec.parts)", "False", "variants"),
    Fault("evaluate/likelihood", "k is one too many", "logsumexp(1) - math.log(k)", "logsumexp(1) - math.log(k + 1)", "likelihood"),
    Fault("evaluate/likelihood", "log q has the wrong sign", "batch[index]) - log_q)", "batch[index]) + log_q)", "likelihood"),
    Fault("evaluate/likelihood", "mean of log-weights (the ELBO)", "weighted[1].logsumexp(1) - math.log(k)", "weighted[1].mean(1)", "likelihood"),
    Fault("evaluate/likelihood", "label leak: the true class alone", "if marginal else [batch]", "if 0 else [batch]", "likelihood"),
    Fault("evaluate/likelihood", "classes averaged, not summed", ".logsumexp(0))", ".mean(0))", "likelihood"),
    Fault("evaluate/bits", "nats called bits", " * math.log(2))", ")", "likelihood"),
    Fault("evaluate/likelihood", "Parzen: number of samples forgotten", "math.log(len(samples)) + ", "", "likelihood"),
    Fault("evaluate/likelihood", "Parzen: the worst width", "return max(grid", "return min(grid", "likelihood"),
    Fault("evaluate/ais", "weights by the whole temperature", "weight + (beta - betas[t - 1]) *", "weight + beta *", "likelihood"),
    Fault("evaluate/ais", "convolutions over time take no operations", "nn.Linear | nn.Conv1d | nn.Conv2d", "nn.Linear | nn.Conv2d", "likelihood"),
    Fault("evaluate/baselines", "channels of sequences have as many parameters as steps", "output.numel() // math.prod(data.spec.shape)", "output.numel() // data.train.x[0].numel()", "baselines"),
    Fault("evaluate/forecasts", "windows of one series are independent", "np.bincount(self.series, values).astype", "values.astype", "forecasts"),
    Fault("evaluate/ais", "gradients take no operations", "float(3 * 2 * products", "float(2 * products", "likelihood"),
    Fault("evaluate/ais", "number of chains forgotten", "- math.log(weight.shape[1])", "", "likelihood"),
    Fault("evaluate/ais", "moves are accepted the wrong way", "torch.rand_like(energy).log() < energy", "torch.rand_like(energy).log() < -energy", "likelihood"),
    Fault("evaluate/ais", "kinetic energy forgotten", "- 0.5 * (momentum.square() - start.square()).sum(1)", "", "likelihood"),
    Fault("evaluate/ais", "gap of the wrong sign", "tuned, chains) - lower)", "tuned, chains) * -1 + lower)", "likelihood"),
    Fault("evaluate/ais", "p(y) forgotten", "each = each + variant.spec.class_probabilities", "each = each + 0 * variant.spec.class_probabilities", "likelihood"),
    Fault("evaluate/ais", "rate without log Z", "beta * mean - _mean_exp(weight)", "beta * mean", "likelihood"),
    Fault("evaluate/latents", "deviation for variance", "codes.var(axis=0) > threshold", "codes.std(axis=0) > threshold", "latents"),
    Fault("evaluate/latents", "a unit at the threshold counts", "return int((kl > threshold)", "return int((kl >= threshold)", "latents"),
    Fault("evaluate/latents", "KL of a level averaged", "float(part.sum())", "float(part.mean())", "latents"),
    Fault("evaluate/latents", "MMD: cross term once", "within - 2 * kernel", "within - kernel", "latents"),
    Fault("evaluate/latents", "moments not in units of the prior", "codes.std(axis=0) / scale", "codes.std(axis=0)", "latents"),
    Fault("evaluate/latents", "divergence: k-th neighbour off by one", "query(codes, k + 1)[0][:, k]", "query(codes, k + 1)[0][:, k - 1]", "latents"),
    Fault("evaluate/latents", "divergence: wrong way round", "np.log(across / within)", "np.log(within / across)", "latents"),
    Fault("evaluate/latents", "collapse not seen", "not active_units_kl(kl) or float(kl.sum()) < SMALLEST_KL", "not active_units_kl(kl)", "latents"),
    Fault("evaluate/clusters", "the worst assignment", "maximize=True", "maximize=False", "latents"),
    Fault("evaluate/clusters", "one cluster too many", "KMeans(count, n_init=10", "KMeans(count + 1, n_init=10", "latents"),
    Fault("evaluate/disentanglement", "MIG not over the entropy", "(ordered[-1] - ordered[-2]) / entropy", "ordered[-1] - ordered[-2]", "disentanglement"),
    Fault("evaluate/disentanglement", "MIG against the third", "ordered[-1] - ordered[-2]", "ordered[-1] - ordered[-3]", "disentanglement"),
    Fault("evaluate/disentanglement", "modularity: all factors are others", "/ (factors.shape[1] - 1)", "/ factors.shape[1]", "disentanglement"),
    Fault("evaluate/disentanglement", "SAP: correlation not squared", "_correlation(codes, factor) ** 2", "abs(_correlation(codes, factor))", "disentanglement"),
    Fault("evaluate/disentanglement", "SAP: scored on its training examples", "balanced_accuracy_score(factor[test], model.predict(scaled[test]))", "balanced_accuracy_score(factor[train], model.predict(scaled[train]))", "disentanglement"),
    Fault("evaluate/disentanglement", "DCI: scored on its training examples", "model.score(codes[test], factor[test])", "model.score(codes[train], factor[train])", "disentanglement"),
    Fault("evaluate/disentanglement", "DCI: disentanglement and completeness swapped", "(weight * _purity(table)).sum()", "_purity(table.T).mean()", "disentanglement"),
    Fault("evaluate/disentanglement", "BetaVAE: scored on its training votes", "model.score(votes[TRAIN:], shared[TRAIN:])", "model.score(votes[:TRAIN], shared[:TRAIN])", "disentanglement"),
    Fault("evaluate/disentanglement", "BetaVAE: one value for all pairs of a vote", "first = rng.integers(len(factors), size=(len(shared), alike))", "first = _partners(factors, shared, rng.integers(len(factors), size=(len(shared), 1)).repeat(alike, axis=1), rng)", "disentanglement"),
    Fault("evaluate/disentanglement", "FactorVAE: the code that varies most votes", "var(axis=1).argmin(axis=1)", "var(axis=1).argmax(axis=1)", "disentanglement"),
    Fault("evaluate/disentanglement", "FactorVAE: variances are not relative", "codes[:, active] / spread[active]", "codes[:, active]", "disentanglement"),
    Fault("evaluate/disentanglement", "FactorVAE: unused codes vote", "spread >= QUIET", "spread >= 0", "disentanglement"),
    Fault("evaluate/samples", "a point is its own neighbour", "np.partition(distances, k, axis=1)[:, k]", "np.partition(distances, k, axis=1)[:, k - 1]", "samples"),
    Fault("evaluate/samples", "coverage by the samples' balls", "covered[rows] = within.any(axis=1)", "covered[rows] = (distances < fake_radius).any(axis=1)", "samples"),
    Fault("evaluate/samples", "recall by the reals' balls", "recalled[rows] = (distances < fake_radius).any(axis=1)", "recalled[rows] = within.any(axis=1)", "samples"),
    Fault("evaluate/samples", "density not over k", "inside_real.mean() / k", "inside_real.mean()", "samples"),
    Fault("evaluate/samples", "Frechet: cross term once", "- 2 * cross", "- cross", "samples"),
    Fault("evaluate/samples", "KID: pairs of a point with itself", "kernel.sum() - np.trace(kernel)", "kernel.sum()", "samples"),
    Fault("evaluate/samples", "neighbours unsorted", "order = near.argsort(axis=1)", "order = np.tile(np.arange(n), (len(near), 1))", "samples"),
    Fault("evaluate/probe", "one label too many", "kind=\"stable\")][:n]", "kind=\"stable\")][: n + 1]", "probe"),
    Fault("evaluate/probe", "labels of the common classes", "chosen = order[np.argsort(turn[order], kind=\"stable\")][:n]", "chosen = np.sort(order)[:n]", "probe"),
    Fault("evaluate/probe", "large classes count more", 'average="macro"', 'average="micro"', "probe"),
    Fault("evaluate/probe", "the majority of the test examples", "test_y == most_frequent(train_y)", "test_y == most_frequent(test_y)", "probe"),
    Fault("evaluate/codes", "unknown labels are a class", "torch.ge(split.y, 0)", "torch.ge(split.y, -1)", "labels"),
    Fault("evaluate/codes", "no classes are uneven", "counts.max() > UNEVEN * counts.min()", "counts.max() > 1000 * counts.min()", "labels"),
    Fault("evaluate/baselines", "logarithms without their Jacobian", "result -= (x * is_positive).sum(1)", "pass", "baselines"),
    Fault("evaluate/baselines", "EM: filled-in values are certain", "/ len(x) + uncertainty)", "/ len(x))", "baselines"),
    Fault("evaluate/baselines", "probabilistic PCA: the noise is of other directions", "variances[: max(1, len(variances) - latent)]", "variances[: max(1, latent)]", "baselines"),
    Fault("evaluate/baselines", "missing counts take part in a multinomial", "log_rates = torch.where(known, ", "log_rates = torch.where(known | True, ", "baselines"),
    Fault("evaluate/baselines", "the scale of a column is pooled", "scale = pooled if axes else variance", "scale = variance.mean()", "baselines"),
    Fault("evaluate/baselines", "the worst baseline is to be beaten", "best = max(titles", "best = min(titles", "baselines"),
    Fault("training_run", "collapse is not noticed", "latents.has_collapsed(self._kl)", "False", "training_run"),
    Fault("evaluate/quick", "unknown labels of validation count as wrong", "labels_of(data.valid) >= 0", "labels_of(data.valid) >= -1", "probe"),
    Fault("evaluate/suite", "unknown labels of the test split count as wrong", "context.codes[known], context.labels[known]", "context.codes, context.labels", "suite"),
    Fault("evaluate/probe", "one neighbour", "min(k, len(train[1]))", "1", "probe"),
    Fault("evaluate/probe", "each column on a scale of its own", "float(np.sqrt(((train_x - mean) ** 2).mean())) or 1.0", "train_x.std(axis=0)", "probe"),
    Fault("evaluate/latents", "variance not in units of the prior", "threshold * prior.var(axis=0)", "threshold", "latents"),
    Fault("evaluate/suite", "the first examples stand for all", "true = probe.subset(data.test, n)", "true = data.test[slice(0, n)]", "suite"),
    Fault("evaluate/hidden_values", "padding replaces missing values", "present.sum(1), (examples * present)", "0 * present.sum(1) + present.shape[1], (examples * present)", "downstream"),
    Fault("evaluate/classifier", "the classifier sees padding", "x = self.body((x * mask[..., None]).transpose(1, 2)) * mask[:, None]", "x = self.body(x.transpose(1, 2))", "downstream"),
    Fault("evaluate/classifier", "unlabelled examples count as wrong", "== y)[y >= 0].mean()", "== y).mean()", "downstream"),
    Fault("evaluate/anomaly", "anomalies are the likely examples", "scores[\"iw\"] = -defined(", "scores[\"iw\"] = defined(", "downstream"),
    Fault("evaluate/anomaly", "a score of the variant with the wrong sign", "append(-terms.extras[name])", "append(terms.extras[name])", "downstream"),
    Fault("evaluate/hidden_values", "imputation: mean of logs", "math.log(log_p.shape[1]) - log_p.logsumexp(1)", "-log_p.mean(1)", "downstream"),
    Fault("evaluate/hidden_values", "imputation: missing values weigh as observed ones", "log_weights.append(_sum(each, ~gaps)", "log_weights.append(_sum(each, gaps)", "downstream"),
    Fault("evaluate/hidden_values", "neighbours by missing values", "(baselines.is_known(batch) & ~hiding)", "baselines.is_known(batch)", "downstream"),
    Fault("evaluate/downstream", "interpolation: sum over the ends' sum", "(moves.sum(1) / ends)", "moves.sum(1)", "downstream"),
    Fault("evaluate/forecasts", "forecasts in standardised units", "return x.double().cpu().numpy() * scale + shift", "return x.double().cpu().numpy()", "forecasts"),
    Fault("evaluate/forecasts", "all channels in the units of the first", "self.units if len(chosen) > 1 else", "self.units * 0 + self.units[0] if len(chosen) > 1 else", "forecasts"),
    Fault("evaluate/forecasts", "a difference within its error is a gain", "gain.value > 1.96 * (gain.error or 0.0)", "gain.value > 0 * (gain.error or 0.0)", "forecasts"),
    Fault("evaluate/forecasts", "the ranked probability score is biased by the number of draws", "sum(axis=0) / (k * (k - 1))", "sum(axis=0) / (k * k)", "forecasts"),
    Fault("evaluate/simple_forecasts", "forecasts begin one step too early", "steps = (self.origins[:, None] + np.arange", "steps = (self.origins[:, None] - 1 + np.arange", "forecasts"),
    Fault("evaluate/simple_forecasts", "missing values are scored", "known: Mask = self.ahead(self.known) & is_real[..., None]", "known: Mask = self.ahead(self.known | True) & is_real[..., None]", "forecasts"),
    Fault("evaluate/simple_forecasts", "a trend is a season", "return np.where(known, x - slope * t, 0.0)", "return np.where(known, x, 0.0)", "forecasts"),
    Fault("evaluate/simple_forecasts", "the season is one step off", "back = season - ahead % season", "back = season + 1 - ahead % season", "forecasts"),
    Fault("evaluate/simple_forecasts", "the first order for all", "chosen.append(candidates[int(np.argmin(losses))])", "chosen.append(candidates[0])", "forecasts"),
    Fault("evaluate/series_pictures", "marks of all channels in each panel", "None if series.marked is None else series.marked[:, channel]", "None if series.marked is None else series.marked.any(axis=1)", "pictures"),
    Fault("evaluate/estimates", "the error of the mean square", "error / (2 * value)", "error", "downstream"),
    Fault("evaluate/estimates", "the number of values of an example does not matter", "sums - mean * counts) ** 2", "sums - sums.mean()) ** 2", "downstream"),
    Fault("evaluate/suite", "errors of areas are lost", "value, error = given if isinstance(given, Estimate) else (given, None)", "value, error = (given[0] if isinstance(given, Estimate) else given), None", "suite"),
    Fault("evaluate/downstream", "no samples are added", "Batch.cat([real[0], *samples])", "Batch.cat([real[0], *real[1:]])", "downstream"),
    Fault("evaluate/downstream", "samples are not of the class asked for", "variant.sample(len(part), part, noise=True)", "variant.sample(len(part), part.flip(0), noise=True)", "downstream"),
    Fault("evaluate/hidden_values", "the sum of hidden counts is known", "scored = _with_exposure(variant, z, true, rest)", "scored = true", "downstream"),
    Fault("evaluate/hidden_values", "hidden counts stay in the sum", "x, exposure = torch.where(observed, batch.x, 0.0), batch.exposure", "x, exposure = batch.x, batch.exposure", "downstream"),
    Fault("evaluate/hidden_values", "missing values are hidden once more", "chosen & split.observed", "chosen", "downstream"),
    Fault("evaluate/anomaly", "the rare class counts as normal", "int(counts.argmax())", "int(counts.argmin())", "downstream"),
    Fault("evaluate/anomaly", "models are trained on rare classes alone", "if 0 < counts[c] >= 0.5", "if 0 < counts[c] >= 0.0", "downstream"),
    Fault("evaluate/anomaly", "the share of normal examples", "float(self.is_anomaly.mean())", "1 - float(self.is_anomaly.mean())", "downstream"),
    Fault("evaluate/anomaly", "a class is compared with all others", "np.isin(self.labels, (c, self.normal))", "self.labels >= 0", "downstream"),
    Fault("evaluate/anomaly", "the rows of the table have the wrong names", '"class": class_name(data, c)', '"class": class_name(data, self.normal)', "downstream"),
    Fault("evaluate/areas", "examples with the same score are in an order", 'side="right") - 1', 'side="left")', "downstream"),
    Fault("evaluate/areas", "the error of one group alone", "variance = positive.var(ddof=1) / len(positive) + negative", "variance = 0.0 * positive.var(ddof=1) + negative", "downstream"),
    Fault("evaluate/areas", "differences as if the scores were independent", "of_first[0] - of_second[0], of_first[1] - of_second[1]", "of_first[0] - of_second[0][::-1], of_first[1] - of_second[1][::-1]", "downstream"),
    Fault("evaluate/simple_forecasts", "persistence repeats a missing value", "np.where(known, steps, -1)", "np.where(known | True, steps, -1)", "forecasts"),
    Fault("evaluate/suite", "samples lack nothing", "x=x if true.known is None else torch.where(true.known, x, 0.0)", "x=x, observed=None", "suite"),
    Fault("evaluate/likelihood", "kinds of values are mixed up", "nll[..., belongs.to(nll.device)]", "nll[..., ~belongs.to(nll.device)]", "suite"),
    Fault("evaluate/suite", "ELBO of the wrong sign", '_drawn("test/elbo", -(sums', '_drawn("test/elbo", (sums', "suite"),
    Fault("evaluate/suite", "a sum called a mean", "value=float(total) / each.size", "value=float(total)", "suite"),
    Fault("evaluate/suite", "k of the table differs from that of the name", "_average(name, bound, k=sizes.iw_k)", "_average(name, bound, k=1)", "suite"),
    Fault("evaluate/suite", "errors divided by n", "each.std(ddof=1) / math.sqrt(len(each))", "each.std(ddof=1) / len(each)", "suite"),
    Fault("evaluate/suite", "the Monte Carlo error is of one draw", "(each.var(axis=0, ddof=1) / draws)", "each.var(axis=0, ddof=1)", "likelihood"),
    Fault("evaluate/suite", "the error of few labels is of the examples alone", "error=math.hypot(score.error, correct.mean(axis=1).std(ddof=1) / math.sqrt(draws))", "error=score.error", "suite"),
    Fault("evaluate/suite", "annealing is corrected with the wrong sign", "bound.value + difference.value", "bound.value - difference.value", "likelihood"),
    Fault("evaluate/suite", "the corrected estimate has the error of the bound alone", "error=math.hypot(bound.error, difference.error)", "error=bound.error", "likelihood"),
    Fault("evaluate/suite", "finals are judged by another probe", "fitted_probe(data, partial(encode_split, context.variant, data))", "fitted_probe(data, partial(encode_split, context.untrained, data))", "probe"),
    Fault("evaluate/context", "rows out of order", "column[probe.subset_positions(len(column), len(values)) if where is None else where] = values", "column[probe.subset_positions(len(column), len(values)) if where is None else where] = values[::-1]", "likelihood"),
    Fault("evaluate/probe", "ties are in favour of the first", "binomtest(wins, wins + losses).pvalue < LEVEL", "binomtest(wins, wins + losses).pvalue < 1.1", "probe"),
    Fault("evaluate/probe", "errors of classes add up", "float(np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / len(groups))", "float(sum(np.sqrt(group.var(ddof=1) / len(group)) for group in groups) / len(groups))", "probe"),
    Fault("evaluate/baselines", "any excess beats a baseline", "+ 1.96 * (errors or {})", "+ 0 * (errors or {})", "baselines"),
    Fault("variants/base/closed_forms", "the normaliser of the continuous Bernoulli has the wrong sign", "logits * (0.5 - x) + _log_sinh_ratio", "logits * (0.5 - x) - _log_sinh_ratio", "pixel_likelihoods"),
    Fault("variants/base/closed_forms", "the series of the normaliser is wrong", "square * (1 / 6 - square", "square * (1 / 3 - square", "pixel_likelihoods"),
    Fault("variants/base/closed_forms", "the last bin ends at 255.5", "torch.where(x > 1 - 0.5 / 255, above, inside)", "inside", "pixel_likelihoods"),
    Fault("variants/base/likelihoods", "channels are coupled with the wrong sign", "mean = mean + coefficient * distance", "mean = mean - coefficient * distance", "pixel_likelihoods"),
    Fault("variants/base/likelihoods", "weights of components are forgotten", "joint = joint - closed_forms", "joint = 0 * joint - closed_forms", "pixel_likelihoods"),
    Fault("variants/base/likelihoods", "a channel is not given those before it", "result.append(before - log_p)", "result.append(-log_p)", "pixel_likelihoods"),
    Fault("evaluate/baselines", "the mean colour costs nothing", "- 8 * len(log_scale) * math.log(2)", "", "bits"),
    Fault("data/_photos", "validation is a part of training", '"valid": (384, 512)', '"valid": (256, 384)', "bits"),
    Fault("data/_load", "rows of a test file are counted after the training file", "test_rows=index[2] if source.test is None else torch.arange(len(index[2]))", "test_rows=index[2]", "suite"),
    Fault("evaluate/codes", "label leak: codes with labels", "variant.encode(b.unlabelled) for b in data.batches(split)", "variant.encode(b) for b in data.batches(split)", "suite"),
    Fault("metrics", "a metric of trials is unknown", 'r"probe/raw_pixels"', 'r"probe/raw_pixel"', "suite"),
    Fault("data/_stream", "each pass has the same order of blocks", "blocks = np.random.default_rng((seed, number))", "blocks = np.random.default_rng((seed, 0))", "stream"),
    Fault("data/_stream", "a training that continues starts the pass again", "divmod(start, len(self))", "(start // len(self), 0)", "stream"),
    Fault("data/_stream", "examples of a window are not shuffled", "np.random.default_rng((seed, number, window)).permutation(inside)", "inside", "stream"),
    Fault("data/_stored", "a file that changes is not noticed", "if (size, time) != tuple(self._facts[i]):", "if False:", "stream"),
    Fault("rehearsal", "bf16 is taken for every gain", "if gain >= GAIN:", "if gain >= 1:", "rehearsal"),
    Fault("rehearsal", "the time of reading is forgotten", "else computing + reading", "else computing", "rehearsal"),
    Fault("compare/remarks", "different precisions are not told", "if len(of_variants) > 1:", "if len(of_variants) > 3:", "report"),
    Fault("data/_stored", "a file that was cut off is not noticed", "if x.size < size:", "if False:", "stream"),
    Fault("data/_large", "labels of other examples", "y=self._codes[positions]", "y=self._codes[positions - positions[0]]", "stream"),
    Fault("data/_large", "means of parts are not weighted", "mean, count = mean + change * n / total, count + n", "mean, count = mean + change / 2, count + n", "stream"),
    Fault("trainer", "the best weights are not restored", "variant.load_state_dict(state.best_weights)", "pass", "trainer"),
    Fault("trainer", "validation in training mode", "variant.eval()", "pass", "trainer"),
    Fault("trainer", "an interruption changes the noise", "self.noise.set_state(saved[\"noise\"])", "pass", "trainer"),
    Fault("trainer", "steps start again after an interruption", "float(state.epoch * steps)", "0.0", "trainer"),
    Fault("training_run", "seeds of finals are those of trials", "FIRST_FINAL_SEED = 10_000", "FIRST_FINAL_SEED = 0", "compare"),
    Fault("training_run", "a curve does not end in the weights that are kept", "scores = {**self.kept, **quick.scores(", "scores = {**quick.scores(", "training_run"),
    Fault("training_run", "the last point is at the last epoch", "self.epoch + (self.best_epoch != self.epoch)", "self.epoch", "training_run"),
    Fault("training_run", "seconds before an interruption forgotten", "before + time.perf_counter()", "time.perf_counter()", "training_run"),
    Fault("training_run", "other data of the same name are accepted", "if loaded.digest != digest:", "if False:", "training_run"),
    Fault("checkpoint", "the old checkpoint is overwritten in place", 'path.with_name(path.name + ".part")', "path", "training_run"),
    Fault("final", "the data are not part of the key", '"digest": data.digest', '"digest": ""', "final"),
    Fault("final", "an interrupted final counts as trained", 'DONE = ("complete", "failed")', 'DONE = ("complete", "failed", "interrupted")', "final"),
    Fault("tracker/journal", "half a line stays in the journal", "os.truncate(path, complete)", "pass", "tracking"),
    Fault("tracker/journal", "an epoch is logged again after an interruption", '{e["label"] for e in self.entries if e["label"]}', "set()", "tracking"),
    Fault("tracker/journal", "an entry that did not fit stays in the journal", "self._stream.truncate(size)", "pass", "places"),
    Fault("tracker/local", "paths are not escaped", 'URL.create("sqlite+pysqlite", database=str(path)).render_as_string()', 'f"sqlite:///{path}"', "places"),
    Fault("tracker/local", "MLflow creates a folder with an escaped name", 'URL.create("sqlite+pysqlite"', 'URL.create("sqlite"', "places"),
    Fault("tracker/local", "two processes create a store at the same time", 'with FileLock(f"{path}.lock"):', "if True:", "survival"),
    Fault("tracker/local", "models of a moved folder are not found", '("model_versions", "storage_location"),', "", "places"),
    Fault("tracker/local", "a moved folder writes to the old one", "UPDATE experiments SET artifact_location = ? WHERE", "UPDATE experiments SET artifact_location = ? WHERE 1 = 0 AND", "places"),
    Fault("tracker/local", "artifacts elsewhere are lost", "if path.parent.resolve() != here.resolve() and (path.parent == default or (here / path.name).is_dir())", "if path.parent.resolve() != here.resolve()", "places"),
    Fault("tracker/run", "a trial is called failed when the disk is full", "and not isinstance(error, STORE_ERRORS)", "", "places"),
    Fault("tracker/__init__", "two files of one name share an experiment", 'and before["digest"] != now["digest"]', "and False", "places"),
    Fault("study/store", "the reason of a store is lost", "cause = error.__cause__ if", "cause = error if", "places"),
    Fault("tracker/sender", "a late process undoes what another completed", "if undone and self", "if False and self", "tracking"),
    Fault("tracker/sender", "a password in the message of an error", r'r"//[^/@\s]*@", "//", (str', r'r"//nobody@", "//", (str', "tracking"),
    Fault("study/pruning", "a high loss is better", "1.0 if d == optuna.study.StudyDirection.MAXIMIZE else -1.0", "1.0", "pruning"),
    Fault("study/pruning", "rungs during a warm-up", "first = warmup + MARGIN * epochs if warmup else 1", "first = 1", "pruning"),
    Fault("study/pruning", "scores are used that do not rank trials", "is_used = correlation(early, final).low > 0", "is_used = True", "pruning"),
    Fault("study/pruning", "a few trials are enough", "if len(early) < LEAST_TRIALS or", "if len(early) < 2 or", "pruning"),
    Fault("study/pruning", "an objective is forgotten", "(remaining > row).any(axis=1)", "(remaining > row).all(axis=1)", "pruning"),
    Fault("study/sampler", "a prior that misleads is kept", "if trial.number > len(self.prior) or _misleads(study.get_trials(deepcopy=False)[: trial.number], study):", "if trial.number > len(self.prior):", "sampler"),
    Fault("study/sampler", "defaults outside of the range are tried", "inside = min(max(value, distribution.low), distribution.high)", "inside = value", "sampler"),
    Fault("study/prior", "the worst settings are taken over", 'sign = -1 if OBJECTIVES[objective].better == "maximize" else 1', "sign = 1", "sampler"),
    Fault("study/trial", "all trials have one seed", "seed = s.seed + self.number", "seed = s.seed", "study"),
    Fault("study/trial", "a pruned trial is called complete", 'run.state = "pruned"', "pass", "study"),
    Fault("study/sampler", "all trials have the same parameters", "{self.seed} {trial.number} {name}", "{self.seed} {name}", "sampler"),
    Fault("study/store", "a task leaves a connection open", "storage.engine.dispose()", "pass", "study_record"),
    Fault("study/results", "a pruned trial may be the best", 't.state == "complete" and metric in t.metrics', "metric in t.metrics", "study_record"),
    Fault("study/results", "the worst reconstruction is the best", '1 if OBJECTIVES[metric].better == "maximize" else -1', "1", "study_record"),
    Fault("study/results", "importances of too few trials", "len(complete) < MIN_IMPORTANCE_TRIALS", "len(complete) < 2", "summary"),
    Fault("study/results", "importances of the worst trials", 'if better == "maximize" else', 'if better == "minimize" else', "summary"),
    Fault("study/summary", "the worst trials come first", "sign * t.values[0]", "-sign * t.values[0]", "summary"),
    Fault("study/summary", "trials of the front are left out", "t.number in front | defaults}", "t.number in defaults}", "summary"),
    Fault("study/summary", "the default settings are left out", "t.number in front | defaults}", "t.number in front}", "summary"),
    Fault("study/summary", "defaults outside of the range are not recognised", "nearest(defaults[n], trial.distributions[n])", "defaults[n]", "summary"),
    Fault("study/summary", "an incomplete trial stands for the defaults", "key=lambda t: t.state != TrialState.COMPLETE", "key=lambda t: t.number", "summary"),
    Fault("data/_preprocessing", "standardised by all splits", "x = raw.x[train].astype(np.float64, copy=False)\n    if raw.known is not None:", "x = raw.x.astype(np.float64, copy=False)\n    if raw.known is not None:", "data"),
    Fault("data/_load", "labels are not part of the digest", "(raw.x, raw.y, raw.lengths,", "(raw.x, raw.lengths,", "data"),
    Fault("data/_splits", "validation and test are the same examples", "group[:size], group[size:rest]", "group[:size], group[:size]", "splits"),
    Fault("data/_splits", "a rare class is in training only", "max(round(len(group) / share), int(len(group) >= 2 + test))", "round(len(group) / share)", "splits"),
    Fault("data/_splits", "examples without a label are lost", "[*range(int(y.max()) + 1), -1]", "range(int(y.max()) + 1)", "splits"),
    Fault("data/_splits", "groups are divided", "units, unit = raw.groups[index], \"groups\"", "units, unit = np.arange(len(index)), \"groups\"", "splits"),
    Fault("data/_splits", "the earliest rows are the test", "np.unique(raw.times,", "np.unique(-raw.times,", "splits"),
    Fault("data/_splits", "the seed has no effect", "seed=source.split_seed)]", "seed=SPLIT_SEED)]", "splits"),
    Fault("data/_description", "many points on a surface count as copies", "jumps = np.append(distances[1:], np.inf) > JUMP**2 * distances", "jumps = distances >= 0", "description"),
    Fault("data/_preprocessing", "new rows are not standardised", "(x.astype(np.float64, copy=False) - self.shift.numpy()) / self.scale.numpy()", "(x.astype(np.float64, copy=False))", "model"),
    Fault("data/_preprocessing", "standardised in float32", "x.astype(np.float64, copy=False) - self.shift.numpy()", "x.astype(np.float32) - self.shift.float().numpy()", "data"),
    Fault("data/_preprocessing", "results stay standardised", "values = values * self.scale.numpy() + self.shift.numpy()", "pass", "model"),
    Fault("data/_preprocessing", "other units are not seen", "(typical > FAR).any()", "False", "new_rows"),
    Fault("evaluate/scores", "scores depend on the other rows", "with machine.EqualNoise(len(batch)):\n                log_weight", "with torch.no_grad():\n                log_weight", "model"),
    Fault("data/_preprocessing", "known values are imputed as well", "np.where(given.known, own, values)", "values", "model"),
    Fault("data/_preprocessing", "categories are in another order", "columns[i].sum(-1)", "columns[self.order[i]].sum(-1)", "model"),
    Fault("evaluate/imputation", "all samples of z count equally", "torch.cat(log_weights, 1).softmax(1)", "0 * torch.cat(log_weights, 1).softmax(1) + 1 / sum(w.shape[1] for w in log_weights)", "imputation"),
    Fault("data/_grid", "days are counted in UTC", 'return self.unit == "mo" or (self.unit == "s" and self.size % DAY == 0)', 'return self.unit == "mo"', "series"),
    Fault("data/_grid", "absent times are those of the row before", "numbers = seconds[begins][sequence] + place * step.size", "numbers = seconds[row] + 0 * place", "series"),
    Fault("data/_steps", "times between two steps are moved", "~(np.abs(exact - place) <= INEXACT)", "~(np.abs(exact - place) <= 1)", "series"),
    Fault("data/_times", "an unclear date has the month first", "if len(readings) > 1:", "if False:", "series"),
    Fault("data/_preprocessing", "times stay in the unit of the source", "(raw.elapsed / self.elapsed_unit)", "raw.elapsed", "series"),
    Fault("data/_load", "times are not part of the digest", "raw.given_exposure, raw.elapsed,", "raw.given_exposure,", "series"),
    Fault("data/_windows", "the last steps are in no window", "counts += (counts - 1) * stride + window < lengths", "pass", "windows"),
    Fault("data/_windows", "padding is a part of other sequences", "taken[~is_real] = padding", "pass", "windows"),
    Fault("data/_windows", "windows have the label of another sequence", "is None else v[series]", "is None else v[0 * series]", "windows"),
    Fault("data/_splits", "windows of a sequence are in several splits", 'raw.windows.series[index], "sequences"', 'np.arange(len(index)), "sequences"', "windows"),
    Fault("data/_splits", "windows with steps of two splits are kept", "(starts >= low) & (ends <= high)", "(starts >= low) & (starts < high)", "windows"),
    Fault("data/_groups", "padding counts as a category", "codes if raw.lengths is None else codes[raw.mask[train]]", "codes", "sequences"),
    Fault("data/_sequence_files", "missing values at the end are always padding", 'if facts.get("equallength", "").lower() == "true":', "if False:", "sequences"),
    Fault("evaluate/ahead", "a forecast repeats the last steps", "prefix[:, None] + torch.arange(steps)", "prefix[:, None] - 1 - torch.arange(steps)", "model"),
    Fault("evaluate/ahead", "a forecast has the means of p(x|z) only", "draws, noise=True)", "draws, noise=False)", "model"),
    Fault("evaluate/ahead", "the first window is continued", "np.cumsum(np.bincount(windows.series)) - 1", "np.cumsum(np.bincount(windows.series)) - np.bincount(windows.series)", "step_anomaly"),
    Fault("evaluate/step_anomaly", "the surprise has seen the value", "*[1] * (log_p.ndim - 2)) - log_p", "*[1] * (log_p.ndim - 2)) + 0 * log_p", "step_anomaly"),
    Fault("evaluate/step_anomaly", "thresholds from the other end", "np.quantile(v, 1 - SHARES)", "np.quantile(v, SHARES)", "step_anomaly"),
    Fault("evaluate/step_anomaly", "missing values have scores", "np.where(missing, np.nan, values) for name", "values for name", "step_anomaly"),
    Fault("evaluate/detectors", "the moving mean contains the step itself", ".shift(1).rolling", ".rolling", "step_anomaly"),
    Fault("evaluate/detectors", "a range in pieces costs nothing", ".clip(min=1)).mean())", ".clip(min=1) ** 0).mean())", "step_anomaly"),
    Fault("evaluate/detectors", "every model is better than trivial", "gain.value <= 1.96 * (gain.error or 0)", "False", "step_anomaly"),
    Fault("evaluate/whole_series", "windows are added up", "/ torch.where(count > 0, count, torch.nan)", "/ torch.where(count > 0, 1.0, torch.nan)", "step_anomaly"),
    Fault("evaluate/whole_series", "windows lie at the start of their series", "[windows.series] + windows.starts\n        names", "[windows.series]\n        names", "step_anomaly"),
    Fault("apply", "a result replaces a file", "if path is not None and path.exists():", "if False:", "apply"),
    Fault("data/_sequences", "padding counts as values", "[s[:n] for s, n in zip(x, lengths, strict=True)]", "list(x)", "sequences"),
    Fault("compare/protocol", "finals are trained on the seeds of trials", "first = training_run.FIRST_FINAL_SEED + FINAL_SEEDS * repetition.number", "first = FINAL_SEEDS * repetition.number", "compare"),
    Fault("compare/protocol", "repetitions share one split", "split_seed=data.source.split_seed + number", "split_seed=data.source.split_seed", "compare"),
    Fault("compare/searches", "repetitions share the seeds of studies", "seed=request.seed + STUDY_SEEDS * number", "seed=request.seed", "compare"),
    Fault("compare/protocol", "splits are taken as independent", 'overlap = len(data.test) / len(data.stream or data.train) if "test" in data.drawn else None', "overlap = 0.0", "compare"),
    Fault("compare/sentences", "a trivial winner is celebrated", "clause, remarks = trivial_note(first), ", 'clause, remarks = "", ', "report"),
    Fault("compare/tables", "the winner's verdict on a variant for the variant's", "MARKS[board.verdicts(name)[best]]", "MARKS[board.verdicts(best)[name]]", "report"),
    Fault("compare/sentences", "pairs without a verdict are called undecided", '"none" if pairs[name].reason else verdicts[name]', "verdicts[name]", "report"),
    Fault("compare/sentences", "seeds speak about variants", 'if comparison.design.unit == "seed":', "if False:", "report"),
    Fault("compare/examples", "missing values are shown as if they were known", "drawing.in_units(drawing.with_gaps(examples.x, examples.known), first), columns", "drawing.in_units(examples.x, first), columns", "report"),
    Fault("compare/examples", "categories of the data by their number", "column.values and (is_data or", "column.values and (not is_data and", "report"),
    Fault("compare/figures", "ranks that differ are joined", "if not test.tells_apart(name, other)", "if True", "report"),
    Fault("compare/across", "lower scores rank first", "board.criterion.sign * r.mean.value", "r.mean.value", "report"),
    Fault("tracker/views", "configurations of one variant share a group", 'group="group"', 'group="variant"', "report"),
    Fault("compare/searches", "studies of other data are compared", "elif study.digest != own_data.digest:", "elif False:", "compare"),
    Fault("compare/statistics", "splits do not overlap", "(1 / self.repetitions + self.overlap)", "(1 / self.repetitions)", "statistics"),
    Fault("compare/statistics", "ranks are told apart though the test of all of them finds nothing", "self.p <= 1 - LEVEL and ", "", "statistics"),
    Fault("compare/across", "ranks of trivial variants are celebrated", "+ _no_better(of_datasets)", "", "report"),
    Fault("compare/statistics", "the interval is one-sided", "(1 + level) / 2", "level", "statistics"),
    Fault("compare/statistics", "a changed sign is lost", "value=factor * value.value", "value=size * value.value", "statistics"),
    Fault("compare/statistics", "what is worse is better", "stats.t.sf((matters - self.value)", "stats.t.sf((matters + self.value)", "statistics"),
    Fault("compare/statistics", "what matters is forgotten", "stats.t.cdf((-matters - self.value)", "stats.t.cdf((-self.value)", "statistics"),
    Fault("compare/statistics", "ties are certain", "if spread < ROUNDING * max(1.0, float(np.abs(values).max())):", "if False:", "statistics"),
    Fault("compare/statistics", "equal differences on small splits are certain", "max(spread, floor)", "spread", "statistics"),
    Fault("compare/statistics", "degrees of freedom by test examples", "self._of_repetitions**2 / (self.repetitions - 1)", "self._of_repetitions**2 / max(1, self.rows - 1)", "statistics"),
    Fault("compare/statistics", "the test examples are all that there are", "self._of_repetitions + self.row_error**2", "self._of_repetitions", "statistics"),
    Fault("compare/statistics", "each seed has test examples of its own", "/ math.sqrt(len(each))", "/ math.sqrt(n * len(each))", "statistics"),
    Fault("compare/statistics", "intervals are right one by one", "(1 - LEVEL) / max(1, intervals)", "(1 - LEVEL)", "statistics"),
    Fault("compare/statistics", "the worst has the first rank", "stats.rankdata(-table", "stats.rankdata(table", "statistics"),
    Fault("compare/statistics", "the critical difference is of the range", "np.inf)) / math.sqrt(2)", "np.inf))", "statistics"),
    Fault("compare/statistics", "data sets with equal scores are losses", "stats.binomtest(wins, wins + losses)", "stats.binomtest(wins, datasets)", "statistics"),
    Fault("compare/analysis", "finals that failed are left out in silence", "if any(name in failures for name in (first, second)):", "if False:", "verdicts"),
    Fault("compare/analysis", "missing scores are left out in silence", "elif len(units) < design.asked:", "elif False:", "verdicts"),
    Fault("compare/analysis", "test examples are taken for repetitions", "return statistics.mean(x - y, rows, overlap=design.overlap)", "return statistics.mean(np.concatenate(rows) if rows else x - y, overlap=design.overlap)", "verdicts"),
    Fault("compare/analysis", "repetitions are taken for seeds", "return statistics.mean(x - y, rows, overlap=design.overlap)", "return statistics.mean(x - y, rows)", "verdicts"),
    Fault("compare/criteria", "higher scores are always better", "return -1.0 if metrics.find", "return 1.0 if metrics.find", "verdicts"),
    Fault("compare/analysis", "a little more than trivial is enough", "chances.better >= statistics.PROBABLE", "chances.better >= 0.5", "verdicts"),
    Fault("compare/analysis", "a variant is compared with the weakest trivial model", "_, _, title, worst = max(unbeaten", "_, _, title, worst = min(unbeaten", "verdicts"),
    Fault("compare/analysis", "better than trivial without an error", "words = NOT_KNOWN", "words = BETTER", "verdicts"),
    Fault("compare/analysis", "better than trivial by a part of the units", " and a.units >= design.asked", "", "verdicts"),
    Fault("compare/analysis", "better than trivial although finals failed", "beats_trivial=beats_trivial and name not in failures", "beats_trivial=beats_trivial", "verdicts"),
    Fault("compare/analysis", "scores of examples with a misspelt name are left out in silence", "rows[run][column] if column and run in rows", "rows[run].get(column) if column and run in rows", "verdicts"),
    Fault("compare/analysis", "pairs without a common unit are left out in silence", "if frozenset((a, b)) not in compared", "if False", "verdicts"),
    Fault("compare/criteria", "a trivial metric with a misspelt name is left out in silence", "ROWS[self.metric]", "pass", "verdicts"),
    Fault("compare/sentences", "better than trivial without a test", "if first.beats_trivial:", "if board.trivial:", "report"),
    Fault("compare/sentences", "variants without a common unit are left out in silence", "has scores of both\": apart} if apart else {}", "has scores of both\": apart} if False else {}", "report"),
    Fault("compare/analysis", "intervals hold one by one", "difference.interval(level)", "difference.interval()", "verdicts"),
    Fault("compare/criteria", "a decoder that ignores z has a negative reconstruction", "factor=-1.0", "factor=1.0", "verdicts"),
    Fault("compare/analysis", "errors of further metrics without test examples", "column = ROWS.get(metric)", "column = None", "verdicts"),
    Fault("compare/analysis", "a trivial model with the wrong sign", "sign * trivial.factor", "sign", "verdicts"),
    Fault("compare/protocol", "the error of corrected annealing is that of the bound", "+ weight * np", "+ 0 * np", "verdicts"),
    Fault("compare/formats", "the interval of a share exceeds 1", "(max(low, 0.0), min(high, 1.0))", "(low, high)", "report"),
    Fault("compare/across", "ranks of fewer scores are not told", "row.mean.repetitions < board.design.asked", "False", "report"),
    Fault("compare/remarks", "annealing that has not converged is believed", "if gap > MOST_GAP", "if False", "report"),
    Fault("compare/analysis", "both variants are better", "opposite.get(p.verdict, p.verdict)", "p.verdict", "verdicts"),
    Fault("benchmark/control_chart", "an effect of the rerun is forgotten", "max(1.0, math.exp(float(np.mean(ratios))))", "1.0", "control_chart"),
    Fault("benchmark/control_chart", "heavy tails are forgotten", "heavy if heavy > 1 + 2 * error else 1.0", "1.0", "control_chart"),
    Fault("benchmark/control_chart", "a confirmation is independent of its rerun", "self.common + (1 - self.common) / values", "1 / values", "control_chart"),
    Fault("benchmark/control_chart", "a series of other noise is pooled", "first, second) < UNEQUAL_LEVEL", "first, second) < 0", "control_chart"),
    Fault("benchmark/control_chart", "one rerun moves the centre", "float(np.median((means[rows] + means[columns]) / 2))", "float(means.mean())", "control_chart"),
    Fault("benchmark/control_chart", "correlated speeds count as independent", "reruns * (1 - correlation) / (1 + correlation)", "reruns", "control_chart"),
    Fault("benchmark/control_chart", "correlated speeds drift", "if base.is_single:", "if False:", "control_chart"),
    Fault("benchmark/history", "speeds of one day count as independent", "list({r.started[:10]: r for r in same}.values()) if is_speed(series) else same", "same", "benchmark"),
]  # fmt: skip


def copy_tree(root: Path) -> None:
    """Copy the packages, the tests and their configuration to a new folder."""
    for part in ("variants", "studies", "pipeline", "tests"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)


def path_of(root: Path, fault: Fault) -> Path:
    return root / ("" if fault.module.startswith("variants/") else "pipeline") / f"{fault.module}.py"


def misplaced(fault: Fault) -> str:
    """Return why a fault cannot be planted; an empty string if it can."""
    count = path_of(ROOT, fault).read_text(encoding="utf-8").count(fault.right)
    return "" if count == 1 else f"{fault.module}, {fault.what}: {fault.right!r} occurs {count} times"


def caught(root: Path, fault: Fault) -> str:
    """Plant a fault, and return the first test that fails; an empty string if none does."""
    path = path_of(root, fault)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, f"tests/test_{fault.tests}.py"],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    failure = re.search(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)
    assert failure or done.returncode == 0, done.stdout + done.stderr
    return failure[1] if failure else ""


def main(modules: list[str]) -> int:
    chosen = [f for f in FAULTS if not modules or f.module.startswith(tuple(modules))]
    problems = [problem for f in chosen if (problem := misplaced(f))]
    if problems or not chosen:
        print("\n".join(problems) or f"no fault is in {', '.join(modules)}", file=sys.stderr)
        return 2
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_tree(root)
        for fault in chosen:
            test = caught(root, fault)
            survivors += not test
            print(f"| {fault.module} | {fault.what} | {test or 'NOT CAUGHT'} |", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
