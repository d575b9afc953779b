"""The criteria of a comparison: what is measured on the test split, and what a difference has to exceed to matter."""

from dataclasses import dataclass

from pipeline import metrics
from pipeline.evaluate.context import Sizes

SIZES = Sizes(ais_n=20, ais_temperatures=200, gap_n=10, draws=3)
MATTERS = {"elbo": 0.05, "probe": 0.005, "reconstruction": 0.15}  # nats, share of the examples, nats


@dataclass(frozen=True)
class Trivial:
    """What a model has to beat: a metric of every final, its column of scores by example, and its name in words.

    Raises:
        KeyError: The metric is in no table of metrics.
    """

    metric: str
    rows: str
    title: str

    def __post_init__(self) -> None:
        metrics.find(self.metric)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A question that a comparison answers by one metric.

    Args:
        name: A short name, such as `elbo`.
        question: The question in a sentence.
        validation_metric: Chooses the configuration of each variant among its trials.
        test_metric: Ranks the variants by their finals.
        rows: The column with the scores of single test examples, whose mean is the test metric.
        matters: The smallest difference that matters, in the unit of the metric.
        trivial: What a useful model exceeds.
        related_metrics: Further test metrics that are shown beside it, without a conclusion.
        caution: What a reader has to know about the metric.

    Raises:
        KeyError: A metric is in no table of metrics.
    """

    name: str
    question: str
    validation_metric: str
    test_metric: str
    rows: str
    matters: float
    trivial: tuple[Trivial, ...] = ()
    related_metrics: tuple[str, ...] = ()
    caution: str = ""

    def __post_init__(self) -> None:
        for metric in (self.validation_metric, self.test_metric, *self.related_metrics):
            metrics.find(metric)

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
        rows="elbo",
        matters=MATTERS["elbo"],
        trivial=tuple(
            Trivial(f"baseline/test_{name}", f"baseline_{name}", name)
            for name in ("independent", "gaussian", "multinomial", "ppca")
        ),
        related_metrics=(f"test/iw{SIZES.iw_k}", "test/ais", "test/ais_subset"),
        caution="This is the bound at beta = 1. A variant whose q(z|x) has no density has no such bound, but annealed "
        f"importance sampling (AIS) can estimate its likelihood. test/ais_subset is of {SIZES.ais_n} test examples "
        "only, so compare it with itself alone.",
    ),
    Criterion(
        name="probe",
        question="Which variant's code tells most about the class?",
        validation_metric="probe/accuracy",
        test_metric="probe/test_accuracy",
        rows="correct",
        matters=MATTERS["probe"],
        trivial=(
            Trivial("probe/majority_all", "correct_majority", "the most frequent class"),
            Trivial("probe/raw_test_accuracy", "correct_raw", "raw values"),
            Trivial("probe/untrained_test_accuracy", "correct_untrained", "untrained codes"),
        ),
        related_metrics=("probe/linear_100", "probe/knn"),
        caution="This is the accuracy of a linear classifier on codes, the same that chose the configurations.",
    ),
    Criterion(
        name="reconstruction",
        question="Which variant reconstructs examples best?",
        validation_metric="valid/reconstruction",
        test_metric="test/reconstruction",
        rows="reconstruction",
        matters=MATTERS["reconstruction"],
        related_metrics=("test/kl",),
        caution="Alone, this favours codes that store everything, under a prior that does not fit them. Read it with "
        "the KL.",
    ),
)
BALANCED_PROBE = Criterion(  # takes the place of the probe's criterion if the classes are uneven
    name="probe",
    question="Which variant's code tells most about the class?",
    validation_metric="probe/balanced_accuracy",
    test_metric="probe/test_balanced_accuracy",
    rows="balanced_correct",
    matters=MATTERS["probe"],
    trivial=(
        Trivial("probe/raw_test_balanced_accuracy", "balanced_correct_raw", "raw values"),
        Trivial("probe/untrained_test_balanced_accuracy", "balanced_correct_untrained", "untrained codes"),
    ),
    related_metrics=("probe/test_accuracy", "probe/majority_all"),
    caution="The classes are uneven, so this is the balanced accuracy of a linear classifier on codes, the same that "
    "chose the configurations: the mean over classes of the share that is classified correctly. The accuracy stands "
    "beside it, with the share of the most frequent class.",
)
