"""VAE: auto-encoding variational Bayes.

Kingma & Welling 2013, arXiv:1312.6114. Equation 10: per example, with z ~ q(z|x),

    L = log p(x|z) - KL(q(z|x) || p(z)),  maximised.

*Departures*: rectified units instead of tanh, and Adam instead of AdaGrad (both as in later work); warm-up and
free bits are offered, and are off unless set.
"""

from torch import Tensor

from variants.base import closed_forms
from variants.base.contract import Batch, Terms
from variants.base.gaussian import GaussianVariant


class VAE(GaussianVariant):
    paper = "Kingma & Welling 2013, Auto-Encoding Variational Bayes, arXiv:1312.6114"

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        reconstruction, kl = self.bound(batch)
        c = self.config
        loss = reconstruction.mean() + closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(kl, c.free_bits)
        return Terms(reconstruction, kl.sum(1), {"loss": loss}, {"kl_per_dimension": kl})
