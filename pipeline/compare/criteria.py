"""The criteria of a comparison: what is measured on the test split, and what a difference has to exceed to matter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline import metrics
from pipeline.evaluate.context import Sizes

SIZES = Sizes(ais_n=20, ais_temperatures=200, gap_n=10, ais_operations=1e12, draws=3)
MODELS = ("independent", "gaussian", "multinomial", "ppca", "mean")  # simple ones, see `evaluate.baselines`
ROWS = {  # metric of a final -> the column of `rows.parquet`, or of `protocol`, whose mean over examples it is
    "test/elbo": "elbo", "test/reconstruction": "reconstruction", "test/kl": "kl", f"test/iw{SIZES.iw_k}": "iw",
    "test/ais_subset": "ais", "test/ais": "ais_corrected", "probe/majority_all": "correct_majority",
    "probe/majority_test_balanced_accuracy": "balanced_correct_majority",
    **{f"baseline/test_{name}": f"baseline_{name}" for name in MODELS},
    **{
        f"probe/{of}test_{kind}accuracy": f"{kind}correct_{of}".strip("_")
        for of in ("", "raw_", "untrained_") for kind in ("", "balanced_")
    },
}  # fmt: skip
MATTERS = {"elbo": 0.05, "probe": 0.005, "reconstruction": 0.15}  # nats, share of the examples, nats


@dataclass(frozen=True)
class Trivial:
    """What a useful model exceeds: a metric of every final, and what it is called in words.

    The metric is multiplied by `factor`, which is -1 if the criterion has the other sign.

    Raises:
        KeyError: The metric is not in `ROWS`.
    """

    metric: str
    title: str
    factor: float = 1.0

    def __post_init__(self) -> None:
        ROWS[self.metric]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A question that a comparison answers by one metric.

    Args:
        name: A short name, such as `elbo`.
        question: The question in a sentence.
        validation_metric: Chooses the configuration of each variant among its trials.
        test_metric: Ranks the variants by their finals.
        matters: The smallest difference that matters, in the unit of the metric.
        trivial: What a useful model exceeds.
        related_metrics: Further test metrics that are shown beside it.
        related_trivial: What a useful model exceeds by one of these metrics, by the metric.
        caution: What a reader has to know about the metric.

    Raises:
        KeyError: A metric is in no table of metrics, or the test metric is not in `ROWS`.
    """

    name: str
    question: str
    validation_metric: str
    test_metric: str
    matters: float
    trivial: tuple[Trivial, ...] = ()
    related_metrics: tuple[str, ...] = ()
    related_trivial: Mapping[str, Trivial] = field(default_factory=dict)
    caution: str = ""

    def __post_init__(self) -> None:
        for metric in (self.validation_metric, self.test_metric, *self.related_metrics):
            metrics.find(metric)
        ROWS[self.test_metric]

    @property
    def sign(self) -> float:
        """1 if a higher test score is better, else -1."""
        return -1.0 if metrics.find(self.test_metric).better == "minimize" else 1.0

    @property
    def direction(self) -> str:
        return "lower is better" if self.sign < 0 else "higher is better"

    @property
    def unit(self) -> str:
        return metrics.find(self.test_metric).unit


CRITERIA = (
    Criterion(
        name="elbo",
        question="Which variant models the data best?",
        validation_metric="valid/elbo",
        test_metric="test/elbo",
        matters=MATTERS["elbo"],
        trivial=tuple(Trivial(f"baseline/test_{name}", name) for name in MODELS),
        related_metrics=(f"test/iw{SIZES.iw_k}", "test/bits_per_dimension", "test/ais", "test/ais_subset"),
        caution="This is the bound at beta = 1. A variant whose q(z|x) has no density has no such bound, but annealed "
        f"importance sampling (AIS) can estimate its likelihood. test/ais_subset is of at most {SIZES.ais_n} "
        "test examples, so compare it with itself alone.",
    ),
    Criterion(
        name="probe",
        question="Which variant's code tells most about the class?",
        validation_metric="probe/accuracy",
        test_metric="probe/test_accuracy",
        matters=MATTERS["probe"],
        trivial=(
            Trivial("probe/majority_all", "the most frequent class"),
            Trivial("probe/raw_test_accuracy", "raw values"),
            Trivial("probe/untrained_test_accuracy", "untrained codes"),
        ),
        related_metrics=("probe/linear_100", "probe/knn"),
        caution="This is the accuracy of a linear classifier on codes, the same that chose the configurations.",
    ),
    Criterion(
        name="reconstruction",
        question="Which variant reconstructs examples best?",
        validation_metric="valid/reconstruction",
        test_metric="test/reconstruction",
        matters=MATTERS["reconstruction"],
        trivial=(Trivial("baseline/test_independent", "independent", factor=-1.0),),
        related_metrics=("test/kl",),
        caution="The trivial model is a decoder that ignores z. Alone, this favours codes that store everything, under "
        "a prior that does not fit them. Read it with the KL.",
    ),
)
BALANCED_PROBE = Criterion(  # takes the place of the probe's criterion if the classes are uneven
    name="probe",
    question="Which variant's code tells most about the class?",
    validation_metric="probe/balanced_accuracy",
    test_metric="probe/test_balanced_accuracy",
    matters=MATTERS["probe"],
    trivial=(
        Trivial("probe/raw_test_balanced_accuracy", "raw values"),
        Trivial("probe/untrained_test_balanced_accuracy", "untrained codes"),
        Trivial("probe/majority_test_balanced_accuracy", "the most frequent class"),
    ),
    related_metrics=("probe/test_accuracy", "probe/majority_all"),
    related_trivial={"probe/test_accuracy": Trivial("probe/majority_all", "always predicting the most frequent class")},
    caution="The classes are uneven, so this is the balanced accuracy of a linear classifier on codes, the same that "
    "chose the configurations: the mean over classes of the share that is classified correctly. The accuracy stands "
    "beside it, with the share of the most frequent class.",
)
