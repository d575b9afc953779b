"""Anchors: results that papers report, and how they are reproduced here by `python -m pipeline.reproduce`.

An anchor has up to three budgets. `cpu` takes about ten minutes on two cores and trains less than the paper, so it has
its own expected values. `gpu` trains longer on a single GPU. `paper` is the schedule of the paper, where it is known.
An expected value is written down before it is measured, and a budget that was never measured has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from variants import Likelihood

Schedule = Literal["constant", "cosine", "burda"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: a variant, its settings, its budget, and how the data are prepared."""

    variant: str
    settings: Mapping[str, Any]
    epochs: int
    schedule: Schedule = "cosine"  # of the learning rate; burda: a factor of 10^(-i/7) for 3^i epochs, i = 0 ... 7
    dataset: str = "mnist"
    grey: bool = False  # train on grey values instead of binarised images
    labels: int = 0  # number of training examples that keep their label; 0 for all
    normal: bool = False  # train on the most frequent class only
    hidden: float = 0.0  # the share of values that the seed hides at random; each split then contains all examples
    likelihood: Likelihood | None = None  # None: the one that the reader of the data chooses
    patience: int | None = None


@dataclass(frozen=True)
class Budget:
    """The trainings of an anchor for one budget, by name."""

    trainings: Mapping[str, Training]
    expected: Mapping[str, tuple[Literal["<=", ">="], float]] = field(default_factory=dict)  # score -> its bound
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of the measurement


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published result. `measure` is the name of a function in `pipeline.reproduce.measure`."""

    about: str
    source: str
    published: Mapping[str, float]
    differs: str  # differences from the paper in every budget
    measure: str
    budgets: Mapping[str, Budget]
    cost: str  # time of the budget `cpu` on two cores
    pictured: Mapping[str, str] = field(default_factory=dict)  # scores that a picture compares -> titles of their axes


_WIDE = {"latent": 40, "width": 500, "depth": 2, "lr": 1e-3, "batch": 128, "warmup": 8000}
_VAE = Training(variant="vae", settings=_WIDE, epochs=90)
_PAPER = {"latent": 50, "width": 200, "depth": 2, "lr": 1e-3, "batch": 20}
_BURDA = Training(variant="vae", settings=_PAPER, epochs=3280, schedule="burda")
_LADDER = Training(variant="hvae", settings={**_WIDE, "width": 400, "levels": 3}, epochs=90)
_SHORT_LADDER = replace(_LADDER, epochs=30, settings={**_LADDER.settings, "warmup": 4000})
_FIVE = {"latent": 64, "width": 512, "levels": 5, "lr": 1e-3, "batch": 256, "warmup": 39_200}
_PAPER_LADDER = Training(variant="hvae", settings=_FIVE, epochs=2000)
_SEE = {"latent": 50, "width": 500, "depth": 2, "lr": 1e-3, "batch": 128, "condition": "quadrants"}
_HEARTBEATS = {"latent": 16, "width": 64, "lr": 3e-3, "batch": 32, "warmup": 400}
_ECG = Training(variant="vrae", settings=_HEARTBEATS, epochs=150, dataset="UCR/ECG5000_TRAIN.tsv")
_ECG_TCN = replace(_ECG, variant="vae", settings={**_HEARTBEATS, "width": 128, "network": "tcn"}, epochs=60)
_JSB = Training(
    variant="vrae",
    settings={
        "latent": 16, "width": 200, "lr": 3e-3, "batch": 16, "feeding": "teacher", "drop": 0.3, "warmup": 1000,
        "cell": "lstm",
    },
    epochs=80, dataset="music/JSB_Chorales.mat",
)  # fmt: skip
_AAE = {"latent": 8, "width": 1000, "depth": 2, "adversary_width": 1000, "lr": 1e-3, "batch": 128}
_SEMI = {**_AAE, "latent": 10, "scale": 1.0, "supervision": "semi"}
_SIX = {"latent": 16, "lr": 1e-3, "batch": 128, "warmup": 2000}
_SPRITES = {"latent": 10, "width": 400, "depth": 2, "lr": 1e-3, "batch": 128}
_VAMP = {"latent": 40, "width": 300, "depth": 2, "lr": 1e-3, "batch": 128, "warmup": 3000}
_VQ = Training(
    variant="vq", settings={
        "latent": 16, "codes": 128, "width": 128, "network": "resnet", "lr": 1e-3, "batch": 128, "prior_width": 64,
        "prior_share": 0.45,
    },
    epochs=18, likelihood="logistic8",
)  # fmt: skip
_IWAE = {"latent": 50, "width": 200, "depth": 2, "lr": 1e-3, "batch": 100}
_MATCH = {"latent": 16, "width": 400, "depth": 2, "lr": 1e-3, "batch": 128}
_MIWAE = Training(
    variant="iwae", settings={"latent": 10, "width": 128, "depth": 2, "lr": 1e-3, "batch": 64, "samples": 20},
    epochs=400, dataset="breast-cancer", hidden=0.5, likelihood="gaussian",
)  # fmt: skip


_DISENTANGLED = {
    "latent/mig": "mutual information gap (MIG)", "latent/factor_vae_score": "FactorVAE score",
    "latent/dci_disentanglement": "DCI disentanglement",
    "test/reconstruction": "reconstruction (nats per example)\nlower is better",
}  # fmt: skip


def _six(epochs: int) -> dict[str, Training]:
    """Return trainings of all variants with equally many weights: 324,000 within 1%, discriminators included."""
    sizes: dict[str, dict[str, Any]] = {
        "vae": {"width": 200}, "beta": {"width": 200, "beta": 4.0}, "cvae": {"width": 197},
        "aae": {"width": 200, "adversary_width": 64, "warmup": 0}, "vrae": {"width": 168, "lr": 2e-3},
        "hvae": {"width": 180, "depth": 1},
    }  # fmt: skip
    rows = {"vrae": "mnist-rows"}
    return {
        n: Training(variant=n, settings={**_SIX, **s}, epochs=epochs, dataset=rows.get(n, "mnist"))
        for n, s in sizes.items()
    }


def _iwae(epochs: int) -> dict[str, Training]:
    return {
        "vae": Training(variant="vae", settings=_IWAE, epochs=epochs),
        "iwae": Training(variant="iwae", settings={**_IWAE, "samples": 5}, epochs=epochs),
    }


def _beside_vae(epochs: int, **others: Mapping[str, Any]) -> dict[str, Training]:
    """Return a training of a vae, and trainings of variants with learned priors by name, with their own settings."""
    trainings = {"vae": Training(variant="vae", settings=_VAMP, epochs=epochs)}
    for name, settings in others.items():
        variant = "flow" if name == "prior" else name
        trainings[name] = Training(variant=variant, settings={**_VAMP, **settings}, epochs=epochs)
    return trainings


def _sprites(epochs: int) -> dict[str, Training]:
    return {
        f"beta {beta}": Training(
            variant="beta", settings={**_SPRITES, "beta": float(beta)}, epochs=epochs, dataset="sprites"
        )
        for beta in (1, 4, 16)
    }


def _four(epochs: int) -> dict[str, Training]:
    strengths: dict[str, dict[str, Any]] = {
        "beta": {"beta": 4.0}, "tcvae": {"beta": 4.0}, "factor": {"gamma": 10.0},
        "dip": {"lambda_od": 10.0, "lambda_d": 100.0},
    }  # fmt: skip
    return {
        n: Training(variant=n, settings={**_SPRITES, "width": 256, **s}, epochs=epochs, dataset="sprites")
        for n, s in strengths.items()
    }


def _quadrants(epochs: int) -> dict[str, Training]:
    trainings = {}
    for observed in (1, 2, 3):
        for objective in ("network", "cvae"):
            settings = {**_SEE, "observed": observed, "objective": objective}
            # the baseline overfits within a few epochs, so each keeps the weights of its best validation score
            training = Training(variant="cvae", settings=settings, epochs=epochs, patience=10)
            trainings[f"{objective} {observed}"] = training
    return trainings


ANCHORS = {
    "vae-mnist": Anchor(
        about="ELBO and importance weighted bound of a VAE with one stochastic layer, dynamic MNIST, nats",
        source="Burda et al. 2016, table 1 (k = 1): IW-5000 on 10,000 test images",
        published={"-log p(x)": 86.76},
        differs="ReLU instead of tanh; validation and test binarised once; 50,000 training images",
        measure="likelihoods",
        budgets={
            "cpu": Budget({"vae": _VAE}, {"vae/-elbo": ("<=", 93.5), "vae/-log p(x)": ("<=", 89.5)}),
            "gpu": Budget({"vae": replace(_VAE, epochs=500)}),
            "paper": Budget({"vae": _BURDA}, {"vae/-log p(x)": ("<=", 87.26)}, {"k": 5000, "n": 10_000}),
        },
        cost="5 min",
    ),
    "cvae-quadrants": Anchor(
        about="-log p(missing pixels|seen pixels), 1, 2 and 3 quadrants seen, importance sampling with S = 100, nats",
        source="Sohn et al. 2015, table 1",
        published={
            "network 1": 99.75, "cvae 1": 63.91, "gap 1": 35.84, "network 2": 62.18, "cvae 2": 44.73, "gap 2": 17.45,
            "network 3": 25.99, "cvae 3": 20.95, "gap 3": 5.04,
        },
        differs="binarised pixels; trained by the CVAE objective alone, not by the hybrid",
        measure="quadrants",
        budgets={
            "cpu": Budget(_quadrants(12), {"gap 1": (">=", 25.0)}),
            "gpu": Budget(_quadrants(100)),
        },
        cost="13 min",
    ),
    "cvae-labels": Anchor(
        about="log p(x) of a class-conditional VAE, marginal over classes, beside a VAE's, nats",
        source="IWAE conditioned on y, IW-5000, k = 1 (log p(x|y)): a public reproduction of Burda et al. 2016",
        published={"-log p(x|y)": 82.32},
        differs="a learned prior for each class; dropout of labels; the architecture and the schedule",
        measure="labels",
        budgets={
            "cpu": Budget({
                "cvae": Training(variant="cvae", settings={**_WIDE, "warmup": 1000}, epochs=30),
                "vae": Training(variant="vae", settings={**_WIDE, "warmup": 1000}, epochs=30),
            }),
        },
        cost="9 min",
    ),
    "aae-mnist": Anchor(
        about="Parzen-window log-likelihood of grey MNIST, a density of 784 dimensions, higher is better, nats",
        source="Makhzani et al. 2015, table 1: 10,000 samples, sigma chosen on validation images",
        published={"parzen": 340.0},
        differs="Adam instead of SGD; cross entropy of grey pixels as the reconstruction",
        measure="parzen",
        budgets={
            "cpu": Budget(
                {"aae": Training(variant="aae", settings=_AAE, epochs=15, grey=True)},
                {"parzen": (">=", 240.0), "posterior_mean": ("<=", 0.1), "posterior_spread": (">=", 0.9)},
            ),
            "gpu": Budget({"aae": Training(variant="aae", settings=_AAE, epochs=400, grey=True)}),
        },
        cost="8 min",
    ),
    "aae-labels": Anchor(
        about="semi-supervised classification error on MNIST with 1000 labels, as a share",
        source="Makhzani et al. 2015, table 2",
        published={"error": 0.016},
        differs="Adam; the labelled examples are 2.6 of the 128 in a batch, not separate batches",
        measure="classification",
        budgets={
            "cpu": Budget({"aae": Training(variant="aae", settings=_SEMI, epochs=12, grey=True, labels=1000)}),
            "gpu": Budget({"aae": Training(variant="aae", settings=_SEMI, epochs=200, grey=True, labels=1000)}),
        },
        cost="8 min",
    ),
    "miwae": Anchor(
        about="mean squared error of imputed values of the breast cancer table, half of them hidden, standardised",
        source="Mattei & Frellsen 2019, the authors' notebook: K = 20 samples in training, L = 10,000 to impute",
        published={"mse": 0.287},
        differs="ReLU instead of tanh; one scale for each column instead of one for each value; the encoder also "
        "reads which values are missing; fewer epochs; as in the paper, the model is trained on the rows that it "
        "imputes, and is not chosen by any score",
        measure="imputation",
        budgets={
            "cpu": Budget(
                {"gaussian": _MIWAE, "student-t": replace(_MIWAE, likelihood="student-t")},
                {"gaussian/mse": ("<=", 0.30)},
            ),
        },
        cost="2 min per seed",
    ),
    "iwae-mnist": Anchor(
        about="importance weighted bound of an IWAE with k = 5 and of a VAE, equal epochs, dynamic MNIST, nats",
        source="Burda et al. 2016, table 1, one stochastic layer: IW-5000 on 10,000 test images",
        published={"iwae/-log p(x)": 85.54, "vae/-log p(x)": 86.76, "vae/-log p(x) above the iwae's": 1.22},
        differs="ReLU instead of tanh; batches of 100, not 20; a fraction of the epochs; 50,000 training images; "
        "validation and test binarised once",
        measure="likelihoods",
        budgets={
            "cpu": Budget(_iwae(30), {"vae/-log p(x) above the iwae's": (">=", 0.5)}),
            "gpu": Budget(_iwae(500)),
            "paper": Budget(
                {"vae": _BURDA, "iwae": replace(_BURDA, variant="iwae", settings={**_PAPER, "samples": 5})},
                {"iwae/-log p(x)": ("<=", 86.04), "vae/-log p(x)": ("<=", 87.26)}, {"k": 5000, "n": 10_000},
            ),
        },
        cost="5 min",
    ),
    "info-mnist": Anchor(
        about="WAE-MMD (InfoVAE with alpha = 1) and a VAE, equal epochs, dynamic MNIST: aggregated posterior, nats",
        source="Zhao et al. 2017 and Tolstikhin et al. 2018 have no such table",
        published={},
        differs="not the task of the papers: binarised MNIST with the likelihood of its pixels; lambda is 100, chosen "
        "on validation images",
        measure="aggregated",
        budgets={
            "cpu": Budget(
                {
                    "wae": Training(
                        variant="info", settings={**_MATCH, "alpha": 1.0, "lambda_mmd": 100.0}, epochs=20
                    ),
                    "vae": Training(variant="vae", settings=_MATCH, epochs=20),
                },
                {
                    "wae/mmd": ("<=", 0.005), "wae/posterior_mean": ("<=", 0.1), "wae/posterior_spread": (">=", 0.9),
                    "vae/reconstruction above the wae's": (">=", 5.0),
                },
            ),
        },
        cost="3 min",
    ),
    "vrae-ecg": Anchor(
        about="ECG5000 (500/4500): linear probe, AUC of the reconstruction of normal heartbeats, KL per sequence",
        source="raw 1-nearest-neighbour accuracy; the paper has no table",
        published={"raw 1-NN accuracy": 0.925},
        differs="not the task of the paper; 400 of 500 examples train; the AUC is of a model of normal heartbeats",
        measure="ecg",
        budgets={
            "cpu": Budget(
                {"all": _ECG, "normal": replace(_ECG, normal=True)},
                {"accuracy": (">=", 0.93), "auc": (">=", 0.95), "kl": (">=", 1.0)},
            ),
        },
        cost="7 min",
    ),
    "vae-ecg": Anchor(
        about="ECG5000 (500/4500) with convolutions over time: the scores of vrae-ecg",
        source="raw 1-nearest-neighbour accuracy; no table of a VAE was found",
        published={"raw 1-NN accuracy": 0.925},
        differs="400 of 500 examples train; the AUC is of a model of normal heartbeats",
        measure="ecg",
        budgets={
            "cpu": Budget(
                {"all": _ECG_TCN, "normal": replace(_ECG_TCN, normal=True)},
                {"accuracy": (">=", 0.93), "auc": (">=", 0.95), "kl": (">=", 1.0)},
            ),
        },
        cost="2 min",
    ),
    "vrae-jsb": Anchor(
        about="JSB chorales: -ELBO and importance weighted bound in nats per step, pooled over steps, with the KL",
        source="RNN 8.71, VRNN ELBO 8.69, DMM bound 6.93, STORN 6.91",
        published={"RNN -log p": 8.71, "VRNN -elbo": 8.69, "STORN -elbo": 6.91},
        differs="one z for a sequence, where the others have one for each step",
        measure="steps",
        budgets={"cpu": Budget({"vrae": _JSB}), "gpu": Budget({"vrae": replace(_JSB, epochs=300)})},
        cost="4 min",
    ),
    "hvae-mnist": Anchor(
        about="importance weighted bound of a ladder, a plain deep VAE and a VAE at one budget, dynamic MNIST, nats",
        source="Sønderby et al. 2016, table 1: 5 levels, IW-5000 on 10,000 test images",
        published={"ladder/-log p(x)": 81.84},
        differs="validation and test binarised once; 50,000 training images",
        measure="likelihoods",
        budgets={
            "cpu": Budget(
                {"ladder": _LADDER, "vae": _VAE},
                {"ladder/-log p(x)": ("<=", 89.0), "vae/-log p(x) above the ladder's": (">=", 0.3)},
            ),
            "gpu": Budget({"ladder": replace(_LADDER, epochs=400), "vae": replace(_VAE, epochs=400)}),
            "paper": Budget({"ladder": _PAPER_LADDER}, {}, {"k": 5000, "n": 10_000}),
        },
        cost="14 min",
    ),
    "hvae-plain": Anchor(
        about="ladder and plain deep VAE at one budget: bound, KL and active units by level, dynamic MNIST, nats",
        source="Sønderby et al. 2016, figures 3 and 4: active units of 5 levels",
        published={"ladder/active_units": 81, "plain/active_units": 21},
        differs="3 levels, and a shorter training",
        measure="likelihoods",
        budgets={
            "cpu": Budget({
                "ladder": _SHORT_LADDER,
                "plain": replace(_SHORT_LADDER, settings={**_SHORT_LADDER.settings, "merge": "plain"}),
            }),
        },
        cost="8 min per seed",
    ),
    "vamp-mnist": Anchor(
        about="importance weighted bound of a VAE with a VampPrior and of a VAE, equal epochs, dynamic MNIST, nats",
        source="Tomczak & Welling 2018, table 1, one level, static MNIST: IW-5000 on 10,000 test images",
        published={"vae/-log p(x)": 88.56, "vamp/-log p(x)": 85.57, "vae/-log p(x) above the vamp's": 2.99},
        differs="dynamic MNIST; plain hidden layers instead of gated ones; a sigmoid in pseudo-inputs; fewer epochs",
        measure="likelihoods",
        budgets={
            "cpu": Budget(_beside_vae(10, vamp={}), {"vae/-log p(x) above the vamp's": (">=", 0.5)}),
            "gpu": Budget(_beside_vae(400, vamp={})),
        },
        cost="3 min",
    ),
    "flow-mnist": Anchor(
        about="importance weighted bound of VAEs with a flow posterior, a flow prior, and neither, dynamic MNIST, nats",
        source="van den Berg et al. 2018 (Sylvester flows), table 1, static MNIST: inverse autoregressive flow",
        published={
            "vae/-elbo": 86.55, "vae/-log p(x)": 82.14, "flow/-elbo": 84.20, "flow/-log p(x)": 80.79,
            "vae/-log p(x) above the flow's": 1.35,
        },
        differs="dynamic MNIST; hidden layers instead of gated convolutions; scales instead of gates in the flow; "
        "fewer epochs; the paper has no flow prior",
        measure="likelihoods",
        budgets={
            "cpu": Budget(
                _beside_vae(10, flow={}, prior={"steps": 0, "prior_steps": 4}),
                {"vae/-log p(x) above the flow's": (">=", 0.3)},
            ),
            "gpu": Budget(_beside_vae(400, flow={}, prior={"steps": 0, "prior_steps": 4})),
        },
        cost="3 min",
    ),
    "vq-mnist": Anchor(
        about="squared error over pixel variance of a VQ-VAE with 7x7 codes, grey MNIST, and its bound in nats",
        source="a public implementation with 49,000 weights, 10 epochs; KL: an autoregressive prior, in nats an image",
        published={"nmse": 0.0612, "kl": 50.6},
        differs="residual blocks; the likelihood is a discretised logistic distribution, not a squared error; a "
        "recurrent prior, trained for 8 epochs after the 10 epochs of the codes",
        measure="quantisation",
        budgets={"cpu": Budget({"vq": _VQ}, {"nmse": ("<=", 0.0612)})},
        cost="8 min",
    ),
    "six-mnist": Anchor(
        about="six variants of equal size and budget on dynamic MNIST: the evaluation of each on the test split",
        source="none: a table of this project",
        published={},
        differs="vrae reads the same images row by row",
        measure="evaluation",
        budgets={"cpu": Budget(_six(8))},
        cost="40 min per seed",
    ),
    "sprites": Anchor(
        about="disentanglement and reconstruction of four variants with equal networks and epochs, sprites, 32x32",
        source="none: a table of this project; Locatello et al. 2019 find that such methods differ less than seeds do",
        published={},
        differs="strengths within the published ranges, and not searched; an MLP; 20 epochs of 50,000 images",
        measure="disentanglement",
        budgets={
            "cpu": Budget(
                _four(20),
                {
                    "mig, tcvae above beta": (">=", 0.0), "factor_vae_score, factor above beta": (">=", 0.0),
                    "reconstruction, tcvae above beta": ("<=", -1.0),
                    "reconstruction, factor above beta": ("<=", -1.0),
                    "reconstruction, dip above beta": ("<=", -1.0),
                },
                {"k": 50},
            ),
        },
        cost="8 min per seed",
        pictured=_DISENTANGLED,
    ),
    "beta-sprites": Anchor(
        about="disentanglement of beta-VAEs on dSprites-like sprites, 32x32, higher is better",
        source="Locatello et al. 2019, dSprites, medians over beta and 50 seeds",
        published={
            "latent/beta_vae_score": 0.82, "latent/factor_vae_score": 0.66, "latent/mig": 0.10,
            "latent/dci_disentanglement": 0.19, "latent/sap": 0.05,
        },
        differs="sprites drawn by this project, at 32x32; an MLP; 20 epochs of 50,000 images",
        measure="disentanglement",
        budgets={
            "cpu": Budget(
                _sprites(20), {"beta 4/latent/beta_vae_score": (">=", 0.80), "mig, beta 4 above beta 1": (">=", 0.0)}
            ),
        },
        cost="10 min per seed",
        pictured=_DISENTANGLED,
    ),
}  # fmt: skip
