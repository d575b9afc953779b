"""A variant with its preprocessing: it takes rows as people have them, and returns codes, scores and samples.

    from pipeline.model import Model
    model = Model(variant="hvae", label="cell_type", epochs=50, seed=0).fit(frame)
    codes = model.transform(new_rows)
    model.save("my-model")
    model = Model.load("my-model")           # or "models:/vae-mine@champion-elbo"

`Model` follows the conventions of scikit-learn. MLflow loads and serves saved models through this module as well.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

import variants
from pipeline import artifact, data, fitting, machine
from pipeline.data import Preprocessing, Raw
from pipeline.evaluate import ahead, imputation, scores, step_anomaly
from pipeline.evaluate.step_anomaly import TrainingScores
from pipeline.evaluate.whole_series import SeriesSteps
from pipeline.metrics import Undefined
from pipeline.new_rows import NewRows
from pipeline.progress import Display
from variants import Batch, InputError

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
        config = fitting.config_of(self.variant, self.hyperparameters)
        if self.epochs < 1:
            raise InputError(f"epochs={self.epochs}: expected 1 or more")
        source = fitting.source_of(X, self.name, self.label, self.data_options)
        content = fitting.content_of(X, fits=True)
        if y is not None:
            content = fitting.with_labels(source, content, y)
        with fitting.about_options(
            'in Python, options are given as data_options, such as {"group": "patient", "kinds": {"x": "pixels"}}'
        ):
            loaded = data.load(source, content)
        self.data_ = loaded.inspect()
        if self.progress:
            Display().say("\n".join(self.data_.summary()))
        fitted = fitting.train(
            self.variant, config, loaded.to(machine.device(self.device)), self.data_ if self.track else None,
            epochs=self.epochs, patience=self.patience, seed=self.seed, progress=self.progress,
        )  # fmt: skip
        self.variant_, self.history_ = fitted.variant.eval().cpu(), fitted.history
        self.training_scores_ = fitted.training_scores
        if fitted.run_id:
            self.run_id_ = fitted.run_id
        self.preprocessing_ = loaded.preprocessing
        self._set_features(X)
        return self

    def _set_features(self, X: Any = None) -> None:
        columns = self.preprocessing.columns
        if self.preprocessing.layout == "table":
            self.n_features_in_ = len(columns)
        if isinstance(X, pandas.DataFrame):
            self.feature_names_in_ = np.array([c.name for c in columns], dtype=object)
        self.classes_ = np.array(self.preprocessing.class_names)

    preprocessing_: Preprocessing | None
    training_scores_: TrainingScores | None  # from which thresholds of `anomaly` follow; None if they are not known

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

    @property
    def new_rows(self) -> NewRows:
        """What reads new rows and computes on them."""
        preprocessing = self.preprocessing  # which raises an error before `fit`
        return NewRows(self.variant_, preprocessing, self.seed)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model into a folder, as safetensors and JSON, and return the folder."""
        known = self.training_scores_
        artifact.save(self.variant_, self.preprocessing, Path(folder), None if known is None else known.json())
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
        variant, preprocessing, known = artifact.load(folder)
        options = dict(preprocessing.source.options) if preprocessing else {}
        label = options.pop("label", None)
        hyperparameters = {name: getattr(variant.config, name) for name in variant.config.__dataclass_fields__}
        model = cls(variants.name_of(variant), label=label, data_options=options or None, **hyperparameters)
        model.variant_, model.preprocessing_ = variant, preprocessing
        model.training_scores_ = None if known is None else TrainingScores.of_json(known)
        if preprocessing is not None:
            model._set_features()
        return model

    # what a fitted model computes

    def transform(self, X: Any) -> Any:
        """Return the code of each example, (N, Z): a data frame if the rows have labels, and otherwise an array."""
        raw = self.new_rows.read(X)
        codes = self.new_rows.each_batch(raw, lambda batch, _: self._encode(batch))
        return self.new_rows.labelled(torch.cat(codes).float().numpy(), raw, list(self.get_feature_names_out()))

    def _encode(self, batch: Batch) -> Tensor:
        return self.variant_.encode(batch.unlabelled)

    def inverse_transform(self, X: Any, label: Any = None) -> Any:
        """Return the mean of p(x|z) for codes (N, Z), in the units of the data, as `reconstruct` does.

        The exposure of counts is the median of the training data. Variants that are conditioned on the class use
        `label`, which is one class for all codes, or one for each.
        """
        spec = self.preprocessing.spec
        codes = torch.tensor(np.asarray(X, dtype=np.float32))
        size = len(self.get_feature_names_out())
        if codes.ndim != 2 or codes.shape[1] != size:
            raise InputError(f"codes have the shape {tuple(codes.shape)}; expected (N, {size})")
        y = self._classes(label, len(codes))
        steps = (spec.steps,) if spec.steps else ()
        condition = None if y is None else Batch(codes.new_zeros(len(codes), *steps, *spec.shape), y)
        rows = X.index if isinstance(X, pandas.DataFrame) else None
        with machine.seeded(self.variant_.device, self.seed):
            return self.new_rows.in_units(self.variant_.decode(codes, condition), rows)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the dimensions of the code: z0, z1, ..."""
        spec = self.preprocessing.spec
        steps = (spec.steps,) if spec.steps else ()
        example = Batch(
            torch.zeros(1, *steps, *spec.shape), mask=torch.ones(1, *steps, dtype=torch.bool) if steps else None,
            elapsed=torch.arange(float(spec.steps))[None] if spec.elapsed else None,
        )  # fmt: skip
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
        raw, preprocessing = self.new_rows.read(X), self.preprocessing

        def of_examples(batch: Batch, _: Any) -> Tensor:
            bounds = scores.bounds(self.variant_, batch)
            if isinstance(bounds, Undefined):
                raise InputError(f"{self.variant} gives no bound of log p(x): {bounds.reason}; use anomaly instead")
            return bounds + preprocessing.log_jacobian(batch) if in_units else bounds

        def of_values(batch: Batch, _: Any) -> Array:
            each = scores.log_likelihoods(self.variant_, batch).double()
            values = preprocessing.by_column(each + preprocessing.log_jacobian_each(batch) if in_units else each)
            if batch.observed is not None:
                values[preprocessing.by_column(~batch.observed) > 0] = np.nan
            return values

        if not by_value:
            return self.new_rows.labelled(torch.cat(self.new_rows.each_batch(raw, of_examples)).numpy(), raw, None)
        values = np.concatenate(self.new_rows.each_batch(raw, of_values))
        if raw.lengths is not None:
            steps = SeriesSteps.of(raw)
            return [data.with_names(v, preprocessing) for v in steps.split(steps.mean(values).numpy())]
        return data.with_names(values, preprocessing, raw.rows) if preprocessing.layout == "table" else values

    def anomaly(self, X: Any, share: float | None = None, *, by_series: bool = False, score: str | None = None) -> Any:
        """Return how unusual data are; higher is more unusual.

        For tables and images, and for sequences with `by_series`, it is one number for each example, (N,): the negative
        of `score_samples`, or -log p(x|z) at the code of x for a variant without such a bound. For series in windows,
        it is in nats per step: the mean over the steps of a series, and over the windows that cover a step, of the
        number of a window divided by its length.

        For sequences, it is a data frame with a row for each step. Its columns are the series, the step (counted from
        0) or its time stamp, `anomaly` with the score of the step, and `anomaly_CHANNEL` with that of each channel. The
        score of a step is the sum over its channels.

        Only observed values count, so examples and steps with more missing values tend to be less unusual.

        Args:
            X: New data.
            share: If it is given, scores that only this share of the training data exceeds are marked. The result is
                then a data frame with the additional column `is_anomaly`, and `is_anomaly_CHANNEL` for each channel,
                which has a threshold of its own. More of new data is marked, because the model was not trained on them.
            by_series: Whether to return one number for each sequence.
            score: The score of steps: "surprise", which is minus the log-probability of a value given all others of its
                sequence, or "reconstruction", which is -E log p(x|z); see `pipeline.evaluate.step_anomaly`. By default,
                it is the surprise if that is defined for the variant.

        Raises:
            InputError: If the thresholds are not known, or `share` is too small for the number of training scores.
        """
        raw, limits = self.new_rows.read(X), None if share is None else self.training_scores
        if raw.lengths is not None and not by_series:
            found = self.anomaly_scores(raw)
            score = score or step_anomaly.preferred(found)
            if score not in found:
                raise InputError(f"score={score!r}: expected {' or '.join(found)} for this {self.variant}")
            return step_anomaly.frame_of_steps(found[score], raw, self.new_rows.columns, score, limits, share)
        each = self.new_rows.each_batch(raw, lambda batch, _: scores.unusualness(self.variant_, batch))
        values = torch.cat(each).numpy()
        if raw.windows is not None:
            return step_anomaly.of_series(values, raw, share)
        if limits is None or share is None:
            return self.new_rows.labelled(values, raw, None)
        marks = values > limits.threshold("example", share)
        return pandas.DataFrame({"anomaly": values, "is_anomaly": marks}, index=raw.rows)

    def anomaly_scores(self, X: Any, progress: step_anomaly.Progress = iter) -> dict[str, Array]:
        """Return both scores of each value, (R, C), for the R steps of all series and C channels; NaN where missing."""
        raw = self.new_rows.read(X)
        if raw.lengths is None:
            raise InputError(f"{raw.source}: there are no sequences; expected sequences, whose steps are scored")
        batch = self.new_rows.encoded(raw)
        found, _ = step_anomaly.value_scores(self.variant_.eval(), batch, self.preprocessing, self.seed, progress)
        steps = SeriesSteps.of(raw)
        return {name: steps.mean(values).numpy() for name, values in found.items()}

    @property
    def training_scores(self) -> TrainingScores:
        """The quantiles of the scores of training data, from which thresholds follow.

        Raises `InputError` if the model was saved by an older version, which did not store them.
        """
        if self.training_scores_ is None:
            raise InputError(
                "the thresholds of this model are not known, because an older version of this program saved it without "
                "them; train it again, or leave share out"
            )
        return self.training_scores_

    def reconstruct(self, X: Any) -> Any:
        """Return the mean of p(x|z) at the code of each example, in the units and the shape of the data.

        Means of counts are real numbers. Category columns, and binary columns of words, hold the most probable value. A
        value of a binary column of numbers lies between its two numbers, at the probability of the second one.
        """
        return self.new_rows.decoded(self.new_rows.read(X), lambda batch: self.decoded(batch)[None])[0]

    def decoded(self, batch: Batch) -> Tensor:
        """Return the mean of p(x|z) at the code of each example of a batch, in the units of `Batch.x`."""
        return self.variant_.decode(self._encode(batch), batch)

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
            return self.new_rows.in_units(self.variant_.sample(n, y, noise=noise), drawn=noise)

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
        raw, variant = self.new_rows.read(X), self.variant_
        if variant.conditioned_on == "x":
            raise InputError(f"{self.variant} models a part of x given the rest; expected a model of all values")
        if not variant.factorized:
            raise InputError(
                f"{self.variant} reads the preceding true values (feeding='teacher'), which may be missing; expected "
                "feeding='free' for a model that fills in values"
            )

        def completed(batch: Batch) -> Tensor:
            xs = batch.x.expand(max(1, draws), *batch.x.shape).clone()
            if batch.observed is not None and not batch.observed.all():
                incomplete = (~batch.observed.flatten(1).all(1)).nonzero().squeeze(1)
                some = batch[incomplete]
                xs[:, incomplete] = (
                    imputation.conditional_draws(variant, some, draws, importance)
                    if draws
                    else imputation.conditional_mean(variant, some, importance)
                )
            return xs

        results = self.new_rows.decoded(raw, completed, drawn=draws > 0, keeps=True)
        return results if draws else results[0]

    def forecast(
        self, X: Any, steps: int, *, draws: int = 200, levels: Sequence[float] = (0.1, 0.5, 0.9)
    ) -> list[pandas.DataFrame]:
        """Return the next `steps` steps of each series: one data frame with a row for each step, in units of the data.

        The first column is `step`, counted from 1 after the end of the series, or the time if the next time stamps are
        known. A channel of numbers has the columns CHANNEL_mean and, for each level, CHANNEL_q0.1: the mean and the
        quantiles of draws from p(next steps|series). A channel of categories or words has CHANNEL_mode, the most
        frequent value of the draws, and CHANNEL_share, its share of the draws.

        If the model was trained on windows, the forecast rests on the last steps of a series, as many as fit into a
        window together with the forecast. Otherwise it rests on the whole series. Series and forecast together must
        then not be longer than the longest training sequence, unless the variant makes sequences of any length.

        Args:
            X: New series.
            steps: The number of steps.
            draws: The number of draws.
            levels: The levels of the quantiles, between 0 and 1.

        Raises:
            InputError: If the variant makes no forecasts, the data are no sequences, or the forecast is too long.
        """
        for name, value in (("steps", steps), ("draws", draws)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: expected a whole number, 1 or more")
        if not all(0 <= level <= 1 for level in levels):
            raise InputError(f"levels={levels!r}: expected numbers from 0 to 1")
        raw, preprocessing, variant = self.new_rows.read(X), self.preprocessing, self.variant_.eval()
        if raw.lengths is None:
            raise InputError(f"{raw.source}: there are no sequences; expected sequences to forecast")
        known = ahead.context(raw, steps, preprocessing.spec.steps, variant.any_length)
        batch = preprocessing.binarized(self.new_rows.encoded(known))
        drawn = ahead.draws_of(variant, batch, steps, draws, self.seed)
        return ahead.frames(drawn, preprocessing, levels, self.new_rows.columns, raw)

    def read_parts(self, place: str, size: int) -> tuple[int, Iterator[Raw]]:
        """Read new rows from a place in parts of at most `size` rows, which the other methods take in place of data.

        Returns the number of parts, and an iterator over them.
        """
        return self.new_rows.read_parts(place, size)

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


def _load_pyfunc(path: str) -> artifact.ServedModel:
    """Load a saved model for MLflow, which finds this function by the name of the module in the file MLmodel."""
    return artifact.ServedModel(Model.load(path))
