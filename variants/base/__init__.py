"""Public building blocks of variants, for this package and for others.

    Variant, Batch, DataSpec, Config, Terms, InputError    the contract that every variant fulfils
    number, choice                                         fields of a Config, with their ranges
    Stage                                                  a part of a training that minimises some of the losses
    GaussianVariant                                        base class: N(0, I) prior, Gaussian q, shared networks
    GaussianPosterior, Bound                               base class: the same, with networks of your own
    DecoderVariant                                         base class: any prior and posterior, one decoder
    Observation                                            p(x|z), composed of the families that fit the data
    Inputs                                                 what a network reads of a batch
    Encoder, Decoder, Features, mlp                        small networks
    frozen                                                 a network without gradients of its weights
    images                                                 residual networks between images and maps
    sequences                                              recurrent networks and convolutions over time
    flows                                                  invertible maps of z with a simple determinant
    Adam                                                   torch's optimizer, for which its compiler is not imported
    closed_forms                                           KL divergences, densities, schedules of the KL
    mmd                                                    maximum mean discrepancy between two samples
    kl_parts, permute_dims                                 total correlation, and codes without it

`variants/README.md` shows how to write a variant with them.
"""

from variants.base import closed_forms, flows, images, sequences
from variants.base.abstract import Bound, DecoderVariant, GaussianPosterior, GaussianVariant
from variants.base.adam import Adam
from variants.base.contract import (
    Batch,
    Config,
    DataSpec,
    Group,
    InputError,
    Loss,
    Stage,
    Terms,
    Variant,
    choice,
    number,
)
from variants.base.likelihoods import Observation
from variants.base.mmd import mmd
from variants.base.networks import Decoder, Encoder, Features, Inputs, frozen, mlp
from variants.base.total_correlation import KLParts, kl_parts, permute_dims

__all__ = [
    "Adam", "Batch", "Bound", "Config", "DataSpec", "Decoder", "DecoderVariant", "Encoder", "Features",
    "GaussianPosterior", "GaussianVariant", "Group", "InputError", "Inputs", "KLParts", "Loss", "Observation", "Stage",
    "Terms", "Variant", "choice", "closed_forms", "flows", "frozen", "images", "kl_parts", "mlp", "mmd", "number",
    "permute_dims", "sequences",
]  # fmt: skip
