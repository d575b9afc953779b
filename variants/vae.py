"""VAE: the variational autoencoder.

Kingma & Welling 2013, arXiv:1312.6114. For each example, with one sample z ~ q(z|x), the method maximises (equation 10)

    L = log p(x|z) - KL(q(z|x) || p(z)).

*Departures*: the hidden units are ReLU instead of tanh, and the optimizer is Adam instead of AdaGrad, as in later work.
Warm-up of the KL and free bits are available, and are off by default.
"""

from torch import Tensor

from variants.base import Batch, GaussianVariant, Terms, closed_forms


class VAE(GaussianVariant):
    paper = "Kingma & Welling 2013, Auto-Encoding Variational Bayes, arXiv:1312.6114"

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        kl = closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
        loss = bound.reconstruction.mean() + kl
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, {"kl_per_dimension": bound.kl})
