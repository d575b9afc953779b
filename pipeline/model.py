"""A variant with its preprocessing: it takes rows as people have them, and returns codes, scores and samples.

    from pipeline.model import Model
    model = Model(variant="hvae", label="cell_type", epochs=50, seed=0).fit(frame)
    codes = model.transform(new_rows)
    model.save("my-model")
    model = Model.load("my-model")           # or "models:/vae-mine@champion-elbo"

`Model` follows the conventions of scikit-learn. MLflow loads and serves saved models through this module as well.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array
from torch import Tensor

import variants
from pipeline import artifact, data, machine, trainer
from pipeline.data import Data, Preprocessing, Raw, Source
from pipeline.evaluate import imputation, pictures
from pipeline.evaluate.codes import sampled_codes
from pipeline.evaluate.likelihood import bound, every_class
from pipeline.metrics import Undefined
from pipeline.progress import Display
from variants import Batch, Config, InputError

BATCH = 1024  # examples that are computed at a time; random numbers start anew with each batch
IMPORTANCE_SAMPLES = 16  # draws of z behind a score
FIXED_OPTIONS = "new data are read with the options of the training, which cannot be changed here"
FORECASTS = 20  # continuations that a forecast is the mean of
Array = NDArray[Any]


class Model(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational autoencoder with the preprocessing of its training data, as a scikit-learn transformer.

    Data may be a numpy array (N, ...), a pandas data frame, a list of sequences (T, D), or the path of a file or folder
    as for the commands. Results have the units, names and shapes of the data: they are data frames with the index of
    the rows if the columns have names, and otherwise arrays; for sequences, they are lists of these. Category columns
    hold their categories. All methods raise `InputError` if new data do not fit the training data.

    Missing values are NaN, or masked in a masked array. If the training data have any, all methods accept them and
    count observed values only; otherwise new rows with missing values have to be completed by `impute` first.

    Args:
        variant: The name of a variant; `variants.names()` lists them.
        label: The column that holds the class. Codes are computed without it.
        data_options: Other options that say how the data are read and split, under the names of the fields of
            `pipeline.data.Source`, such as `{"group": "patient", "drop": ("id",), "kinds": {"age": "real"}}`.
        epochs: The largest number of epochs.
        patience: Training ends after this many epochs without a better validation score, and the weights of the best
            epoch are kept. With None, all epochs are trained, and the last weights are kept.
        seed: The seed of the weights, of the order of the examples and of all noise.
        device: `auto`, `cpu`, `cuda` or `cuda:0`.
        name: The name of data in memory, under which MLflow lists them.
        track: Whether `fit` logs curves, scores, pictures and the model to MLflow.
        progress: Whether `fit` shows its progress.
        **hyperparameters: Hyperparameters of the variant, such as `latent=16`; see `python -m pipeline.study --variant
            NAME --help`.

    Attributes:
        variant_: The trained variant, a torch module.
        preprocessing_: The preprocessing of the training data.
        data_: The description of the training data, a `pipeline.data.Description`.
        history_: A data frame with the scores after each epoch.
        classes_: The names of the classes, or an empty array.
        n_features_in_: The number of columns of a table.
        feature_names_in_: The names of the columns of a data frame.
    """

    def __init__(
        self, variant: str = "vae", *, label: str | None = None, data_options: Mapping[str, Any] | None = None,
        epochs: int = 50, patience: int | None = None, seed: int = 0, device: str = "auto", name: str = "data",
        track: bool = False, progress: bool = True, **hyperparameters: Any,
    ) -> None:  # fmt: skip
        self.variant = variant
        self.label = label
        self.data_options = data_options
        self.epochs = epochs
        self.patience = patience
        self.seed = seed
        self.device = device
        self.name = name
        self.track = track
        self.progress = progress
        self.hyperparameters = hyperparameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters, those of the variant included."""
        return {**super().get_params(deep), **self.hyperparameters}

    def set_params(self, **params: Any) -> "Model":
        """Set parameters, also those of the variant, and return the model itself."""
        own = self._get_param_names()
        for name, value in params.items():
            if name in own:
                setattr(self, name, value)
            else:
                self.hyperparameters[name] = value
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # codes are float32
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: Any = None) -> "Model":
        """Train on data, and return the model itself.

        A tenth of the data is kept for validation, and another tenth for testing, unless the data have splits.

        Args:
            X: An array, a data frame, a list of sequences, or a path.
            y: The classes, (N,), for data that do not contain them.

        Raises:
            InputError: If the data or a hyperparameter is wrong, with the same message as from the commands.
        """
        config = self._config()
        if self.epochs < 1:
            raise InputError(f"epochs={self.epochs}: expected 1 or more")
        source, content = self._source(X), _content(X, fits=True)
        if y is not None:
            content = _with_labels(source, content, y)
        with about_options(
            'in Python, options are given as data_options, such as {"group": "patient", "kinds": {"x": "pixels"}}'
        ):
            loaded = data.load(source, content)
        self.data_ = loaded.inspect()
        if self.progress:
            Display().say("\n".join(self.data_.summary()))
        self._train(config, loaded.to(machine.device(self.device)))
        self.preprocessing_ = loaded.preprocessing
        self._set_features(X)
        return self

    def _config(self) -> Config:
        try:
            return variants.get(self.variant).config_type(**self.hyperparameters)
        except TypeError as error:
            names = ", ".join(variants.get(self.variant).config_type.__dataclass_fields__)
            advice = "options that say how data are read belong in data_options"
            raise InputError(f"{self.variant}: {error}; its hyperparameters are {names}; {advice}") from error

    def _source(self, X: Any) -> Source:
        options = dict(self.data_options or {})
        if isinstance(options.get("drop"), str):
            options["drop"] = (options["drop"],)
        if isinstance(options.get("kinds"), Mapping):
            options["kinds"] = tuple(options["kinds"].items())
        if self.label is not None:
            options["label"] = self.label
        try:
            return Source(place=os.fspath(X) if isinstance(X, str | Path) else self.name, **options)
        except TypeError as error:
            names = ", ".join(n for n in Source.__dataclass_fields__ if n != "place")
            raise InputError(f"data_options: {error}; expected some of {names}") from error

    def _train(self, config: Config, loaded: Data) -> None:
        torch.manual_seed(self.seed)
        history = []
        if self.track:
            self._train_tracked(config, loaded)
            return
        self.variant_ = variants.build(self.variant, config, loaded.spec)
        epochs = trainer.train(self.variant_, loaded, epochs=self.epochs, seed=self.seed, patience=self.patience)
        for epoch in self._shown(epochs):
            history.append({"epoch": epoch.number, **epoch.metrics})
        self.variant_.eval().cpu()
        self.history_ = pandas.DataFrame(history)

    def _train_tracked(self, config: Config, loaded: Data) -> None:
        from pipeline.tracker import Tracker  # MLflow takes seconds to import
        from pipeline.training_run import TrainingPlan, TrainingRun

        plan = TrainingPlan(
            variant=self.variant, config=config, epochs=self.epochs, patience=self.patience, seed=self.seed
        )
        tags = {"kind": "model", "variant": self.variant, "dataset": loaded.spec.name, "seed": str(self.seed)}
        tracker = Tracker(loaded.spec.name)
        tracker.claim(loaded)
        with tracker.run(f"{self.variant}-{loaded.spec.name}", tags) as run:
            training = TrainingRun(plan, loaded, run)
            run.description(self.data_, pictures.examples(loaded))
            history = [{"epoch": e.number, **e.metrics} for e in self._shown(training.epochs())]
            run.model(training.variant, loaded, training.scores(), training.best_epoch)
            self.run_id_ = run.id
        self.variant_ = training.variant.eval().cpu()
        self.history_ = pandas.DataFrame(history)

    def _shown(self, epochs: Iterator[trainer.Epoch]) -> Iterator[trainer.Epoch]:
        """Yield the epochs and show them, if `progress` is true."""
        if not self.progress:
            yield from epochs
            return
        with Display().progress(f"training {self.variant}", 1) as shown:
            shown.start(0, self.variant, self.epochs)
            summary = ""
            for epoch in epochs:
                summary = epoch.summary()
                shown.update(0, epoch.number, summary)
                yield epoch
            shown.finish(0, f"{self.variant}: {epoch.number} epochs, validation {summary}")

    def _set_features(self, X: Any = None) -> None:
        columns = self.preprocessing.columns
        if self.preprocessing.layout == "table":
            self.n_features_in_ = len(columns)
        if isinstance(X, pandas.DataFrame):
            self.feature_names_in_ = np.array([c.name for c in columns], dtype=object)
        self.classes_ = np.array(self.preprocessing.class_names)

    preprocessing_: Preprocessing | None

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the fitted model.

        Raises `NotFittedError` before `fit`, and `InputError` if an older version saved the model without it.
        """
        if not hasattr(self, "variant_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit, or use Model.load")
        if self.preprocessing_ is None:
            raise InputError(
                "the preprocessing of this model is not known, because an older version of this program saved it "
                "without; train it again with `Model.fit` or `pipeline.study`, or use its `variant_`, which takes "
                "batches that are prepared as its training data were"
            )
        return self.preprocessing_

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model into a folder, as safetensors and JSON, and return the folder."""
        artifact.save(self.variant_, self.preprocessing, Path(folder))
        return Path(folder)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> "Model":
        """Return a saved model. Nothing is unpickled.

        Args:
            source: A folder that `save` or a command wrote, or the `models:/` URI of a registered or logged model of
                MLflow. The store is `MLFLOW_TRACKING_URI`, or `mlflow.db` in the working directory.

        Raises:
            InputError: If there is no such model, or it cannot be read.
        """
        if str(source).startswith("runs:/"):
            raise InputError(f"{source}: expected a folder, or the name of a model, such as models:/NAME@champion-elbo")
        if str(source).startswith("models:/"):
            from pipeline.tracker import model_files  # MLflow takes seconds to import

            folder = model_files(str(source))
        else:
            folder = Path(source).expanduser()
        variant, preprocessing = artifact.load(folder)
        options = dict(preprocessing.source.options) if preprocessing else {}
        label = options.pop("label", None)
        hyperparameters = {name: getattr(variant.config, name) for name in variant.config.__dataclass_fields__}
        model = cls(variants.name_of(variant), label=label, data_options=options or None, **hyperparameters)
        model.variant_, model.preprocessing_ = variant, preprocessing
        if preprocessing is not None:
            model._set_features()
        return model

    # what a fitted model computes

    def transform(self, X: Any) -> Any:
        """Return the code of each example, (N, Z): a data frame if the rows have labels, and otherwise an array."""
        raw = self._read(X)
        codes = self._each_batch(raw, lambda batch, _: self._encode(batch))
        return self._by_row(torch.cat(codes).float().numpy(), raw, list(self.get_feature_names_out()))

    def _encode(self, batch: Batch) -> Tensor:
        return self.variant_.encode(batch.unlabelled)

    def inverse_transform(self, X: Any, label: Any = None) -> Any:
        """Return the mean of p(x|z) for codes (N, Z), in the units of the data, as `reconstruct` does.

        The exposure of counts is the median of the training data. Variants that are conditioned on the class use
        `label`, which is one class for all codes, or one for each.
        """
        preprocessing = self.preprocessing
        codes = torch.tensor(np.asarray(X, dtype=np.float32))
        size = len(self.get_feature_names_out())
        if codes.ndim != 2 or codes.shape[1] != size:
            raise InputError(f"codes have the shape {tuple(codes.shape)}; expected (N, {size})")
        y = self._classes(label, len(codes))
        condition = None if y is None else Batch(codes.new_zeros(len(codes), *preprocessing.spec.shape), y)
        rows = X.index if isinstance(X, pandas.DataFrame) else None
        with machine.seeded(self.variant_.device, self.seed):
            return self._values(self.variant_.decode(codes, condition), rows)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the dimensions of the code: z0, z1, ..."""
        spec = self.preprocessing.spec
        steps = (spec.steps,) if spec.steps else ()
        example = Batch(
            torch.zeros(1, *steps, *spec.shape), mask=torch.ones(1, *steps, dtype=torch.bool) if steps else None
        )
        with torch.no_grad():
            size = self.variant_.encode(example).shape[1]
        return np.array([f"z{i}" for i in range(size)], dtype=object)

    def score_samples(self, X: Any, by_value: bool = False, *, in_units: bool = False) -> Any:
        """Return a lower bound of log p(x) of each example, (N,), in nats; higher means more typical.

        The bound is importance weighted, with 16 draws of z (Burda et al. 2016, equation 8), and sums over the classes
        if the variant is conditioned on them. Only observed values count. The noise depends on `seed`.

        Args:
            X: New data.
            by_value: Whether to return instead the expected log p(x_i|z) of each value under q(z|x), in the shape of
                the data, which shows the values that are unusual; NaN for missing values.
            in_units: Whether p(x) is a density in the units of the data. Otherwise it is a density of the values that
                the model reads: real values are standardised, and positive values divided by their geometric mean.
                Models with different likelihoods of the same data can be compared only in the units of the data.

        Raises:
            InputError: If q(z|x) of the variant has no density. `anomaly` works for all variants.
        """
        raw, preprocessing = self._read(X), self.preprocessing

        def scores(batch: Batch, _: Any) -> Tensor:
            bounds = self._bounds(batch)
            return bounds + preprocessing.log_jacobian(batch) if in_units else bounds

        def of_values(batch: Batch, part: Raw) -> Any:
            each = self._log_likelihoods(batch).double()
            values = preprocessing.by_column(each + preprocessing.log_jacobian_each(batch) if in_units else each)
            if batch.observed is not None:
                values[preprocessing.by_column(~batch.observed) > 0] = np.nan
            if batch.mask is not None:
                return [data.with_names(v[:n], preprocessing) for v, n in zip(values, batch.mask.sum(1), strict=True)]
            return data.with_names(values, preprocessing, part.rows) if preprocessing.layout == "table" else values

        if by_value:
            return _joined(self._each_batch(raw, of_values))
        return self._by_row(torch.cat(self._each_batch(raw, scores)).numpy(), raw, None)

    def _bounds(self, batch: Batch) -> Tensor:
        """Return the importance weighted bound of log p(x), (B,), in nats, float64."""
        by_class = []
        for labelled in every_class(self.variant_, batch):
            draws = []
            for _ in range(IMPORTANCE_SAMPLES):
                with machine.EqualNoise(len(batch)):
                    log_weight = bound(self.variant_, labelled, 1)
                if isinstance(log_weight, Undefined):
                    raise InputError(
                        f"{self.variant} gives no bound of log p(x): {log_weight.reason}; use anomaly instead"
                    )
                draws.append(log_weight)
            by_class.append(torch.stack(draws).logsumexp(0) - math.log(IMPORTANCE_SAMPLES))
        return torch.stack(by_class).logsumexp(0)

    def _log_likelihoods(self, batch: Batch) -> Tensor:
        """Return E log p(x_i|z) of each value, (B, *shape), under q(z|x), or at the code if q has no density."""
        total = torch.zeros_like(batch.x)
        for _ in range(IMPORTANCE_SAMPLES):
            with machine.EqualNoise(len(batch)):
                z = sampled_codes(self.variant_, batch)
            total += self.variant_.log_likelihood(z, batch)
        return total / IMPORTANCE_SAMPLES

    def anomaly(self, X: Any) -> Any:
        """Return how unusual each example is, (N,); higher is more unusual.

        It is the negative of `score_samples`. For a variant without such a bound it is -log p(x|z) at the code of x.
        Only observed values count, so examples with more missing values tend to be less unusual.
        """
        raw = self._read(X)

        def negative_score(batch: Batch, _: Any) -> Tensor:
            if self.variant_.sample_posterior(batch[slice(0, 1)]) is None:
                return -self._log_likelihoods(batch).flatten(1).sum(1).double()
            torch.manual_seed(self.seed)
            return -self._bounds(batch)

        return self._by_row(torch.cat(self._each_batch(raw, negative_score)).numpy(), raw, None)

    def reconstruct(self, X: Any) -> Any:
        """Return the mean of p(x|z) at the code of each example, in the units and the shape of the data.

        Means of counts are real numbers. Category columns, and binary columns of words, hold the most probable value. A
        value of a binary column of numbers lies between its two numbers, at the probability of the second one.
        """

        def decoded(batch: Batch, part: Raw) -> Any:
            return self._values(self.variant_.decode(self._encode(batch), batch), part.rows, batch.mask)

        return _joined(self._each_batch(self._read(X), decoded))

    def sample(self, n: int, label: Any = None, *, noise: bool = True, seed: int | None = None) -> Any:
        """Return `n` new examples in the units of the data. Counts are whole numbers.

        The exposure of counts, such as their sum, is drawn from its distribution in the training data.

        Args:
            n: The number of examples.
            label: The class of all examples, or n classes, for variants that are conditioned on it.
            noise: Whether to draw from p(x|z); otherwise the mean of p(x|z) is returned.
            seed: The seed of the draws, by default that of the model.
        """
        if not isinstance(n, int) or n < 1:
            raise InputError(f"n={n!r}: expected a whole number, 1 or more")
        y = self._classes(label, n)
        with machine.seeded(self.variant_.device, self.seed if seed is None else seed):
            return self._values(self.variant_.sample(n, y, noise=noise), drawn=noise)

    def impute(self, X: Any, draws: int = 0, *, importance: int = 1000) -> Any:
        """Return the data with missing values replaced by their expected value given the observed ones.

        Known values stay exactly as they are. Expected values have the form that `reconstruct` gives them.

        Args:
            X: New data.
            draws: If it is above 0, the result is a list of this number of completed data sets, whose missing values
                are approximate draws from p(missing values|observed values). They show how uncertain the values are.
            importance: The number of samples of z for importance sampling, which is used if the training data had
                missing values and q(z|x) has a density. Otherwise z and the missing values are drawn in turn; see
                `pipeline.evaluate.imputation`.

        Raises:
            InputError: If the variant does not model all values, but a part of x given another part.
        """
        if not isinstance(draws, int) or draws < 0:
            raise InputError(f"draws={draws!r}: expected a whole number, 0 or more")
        if not isinstance(importance, int) or importance < 1:
            raise InputError(f"importance={importance!r}: expected a whole number, 1 or more")
        raw, variant = self._read(X), self.variant_
        if variant.conditioned_on == "x":
            raise InputError(f"{self.variant} models a part of x given the rest; expected a model of all values")
        if not variant.factorized:
            raise InputError(
                f"{self.variant} reads the preceding true values (feeding='teacher'), which may be missing; expected "
                "feeding='free' for a model that fills in values"
            )

        def completed(batch: Batch, part: Raw) -> list[Any]:
            xs = batch.x.expand(max(1, draws), *batch.x.shape).clone()
            if batch.observed is not None and not batch.observed.all():
                incomplete = (~batch.observed.flatten(1).all(1)).nonzero().squeeze(1)
                some = batch[incomplete]
                xs[:, incomplete] = (
                    imputation.conditional_draws(variant, some, draws, importance)
                    if draws
                    else imputation.conditional_mean(variant, some, importance)
                )
            return [self._values(x, part.rows, batch.mask, drawn=draws > 0, given=part) for x in xs]

        parts = self._each_batch(raw, completed, allow_missing=True)
        results = [_joined(list(each)) for each in zip(*parts, strict=True)]
        return results if draws else results[0]

    def forecast(self, X: Any, steps: int) -> Any:
        """Return the next `steps` steps of each sequence, in the units of the data.

        The forecast is the mean of 20 continuations.

        Raises:
            InputError: If the variant makes no forecasts, or the data are no sequences.
        """
        raw = self._read(X)
        if raw.lengths is None:
            raise InputError(f"{raw.source}: there are no sequences; expected sequences to forecast")

        def continued(batch: Batch, part: Raw) -> Any:
            assert batch.mask is not None
            lengths, pad = batch.mask.sum(1), (0, 0, 0, steps)
            longer = torch.nn.functional.pad(batch.x, pad)
            observed = None if batch.observed is None else torch.nn.functional.pad(batch.observed, pad, value=True)
            positions = torch.arange(longer.shape[1])
            whole = dataclasses.replace(batch, x=longer, mask=positions < (lengths + steps)[:, None], observed=observed)
            continuations = self.variant_.forecast(whole, lengths, FORECASTS)
            if continuations is None:
                raise InputError(f"{self.variant} makes no forecasts; expected another variant")
            ahead = (lengths[:, None] + torch.arange(steps))[..., None].expand(-1, -1, longer.shape[2])
            mean = continuations.mean(0).gather(1, ahead)
            return self._values(mean, part.rows, torch.ones(len(mean), steps, dtype=torch.bool))

        return _joined(self._each_batch(raw, continued))

    # from rows to batches and back

    def _read(self, X: Any) -> Raw:
        """Read new rows in the way the training data were read."""
        like = self.preprocessing
        if isinstance(X, Raw):
            return X
        with about_options(FIXED_OPTIONS):
            return data.read(self._new_source(X), _content(X), like)

    def _new_source(self, X: Any) -> Source:
        """Return the source of new rows, with the options by which the training data were read."""
        place = os.fspath(X) if isinstance(X, str | Path) else "the data"
        return dataclasses.replace(self.preprocessing.source, place=place, test=None, split=None)

    def read_parts(self, place: str, size: int) -> tuple[int, Iterator[Raw]]:
        """Read new rows from a place in parts of at most `size` rows, which the other methods take in place of data.

        Returns the number of parts, and an iterator over them.
        """
        return data.read_parts(self._new_source(place), self.preprocessing, size)

    def _each_batch(self, raw: Raw, compute: Callable[[Batch, Raw], Any], *, allow_missing: bool = False) -> list[Any]:
        """Call `compute` with each batch, as tensors and as they were read, and return the results.

        Examples with missing values are refused if the training data had none, unless `allow_missing` is true.
        """
        with about_options(FIXED_OPTIONS):
            whole = self.preprocessing.encode(raw, allow_missing=allow_missing)
        results = []
        self.variant_.eval()
        for start in range(0, len(whole), BATCH):
            part = slice(start, start + BATCH)
            with machine.seeded(self.variant_.device, self.seed):
                results.append(compute(self.preprocessing.binarized(whole[part]), raw[part]))
        return results

    def _classes(self, label: Any, n: int) -> Tensor | None:
        """Return the codes of classes, (n,); None if none is given. Raises `InputError` for an unknown class."""
        class_names = self.preprocessing.class_names
        if label is None:
            return None
        if not self.variant_.class_conditional:
            raise InputError(f"label={label!r}: {self.variant} is not conditioned on a class; expected no label")
        codes = {str(c): code for code, c in enumerate(class_names)}
        labels = [label] * n if np.ndim(label) == 0 else list(label)
        if len(labels) != n:
            raise InputError(f"{len(labels)} labels for {n} examples; expected one label, or one for each example")
        for one in labels:
            if str(one) not in codes:
                raise InputError(f"label={one!r}: expected one of the classes {', '.join(codes)}")
        return torch.tensor([codes[str(one)] for one in labels])

    def _by_row(self, values: Array, raw: Raw, columns: list[str] | None) -> Any:
        """Return values (N, ...) with the labels of the rows, if there are any."""
        if raw.rows is None:
            return values
        if columns is None:
            return pandas.Series(values, index=raw.rows)
        return pandas.DataFrame(values, index=raw.rows, columns=columns)

    def _values(
        self, x: Tensor, rows: Any = None, mask: Tensor | None = None, *, drawn: bool = False, given: Raw | None = None
    ) -> Any:
        """Turn values in the units of `Batch.x` into the units and the form of the data; see `Preprocessing.decode`."""
        values = self.preprocessing.decode(x, drawn=drawn, given=given)
        return data.in_source_form(values, self.preprocessing, rows, mask)


@contextmanager
def about_options(advice: str) -> Iterator[None]:
    """Add advice to an `InputError` that names options of the commands."""
    try:
        yield
    except InputError as error:
        if " --" not in str(error) or advice in str(error):
            raise
        raise InputError(f"{error} ({advice})") from error


def _content(X: Any, fits: bool = False) -> Any:
    """Return data in memory in a form that `pipeline.data.load` takes, and None for a path."""
    if isinstance(X, str | Path):
        return None
    is_series = isinstance(X, list | tuple) and all(isinstance(s, np.ndarray) for s in X)
    if isinstance(X, pandas.DataFrame | np.ma.MaskedArray) or type(X) is dict or is_series:
        return X
    return check_array(X, allow_nd=True, ensure_all_finite=False, ensure_min_samples=2 if fits else 1)


def _with_labels(source: Source, content: Any, y: Any) -> Any:
    """Return data in memory with labels."""
    if content is None:
        raise InputError(
            f"{source}: y cannot be given for a file; name the column of the file that holds the class with label"
        )
    if isinstance(content, pandas.DataFrame):
        name = source.label or "label"
        if name in content:
            raise InputError(f"y is given, but the data also have a column {name!r}; leave one of them out")
        return content.assign(**{name: np.asarray(y)})
    if isinstance(content, dict):
        return {**content, "y": y}
    return {"x": content, "y": y}


def _joined(parts: list[Any]) -> Any:
    """Join the results of batches: frames, arrays or lists of sequences."""
    if isinstance(parts[0], list):
        return [sequence for part in parts for sequence in part]
    return pandas.concat(parts) if isinstance(parts[0], pandas.DataFrame) else np.concatenate(parts)


def _load_pyfunc(path: str) -> artifact.ServedModel:
    """Load a saved model for MLflow, which finds this function by the name of the module in the file MLmodel."""
    return artifact.ServedModel(Model.load(path))
