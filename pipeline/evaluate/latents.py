"""What the latent code uses."""

import numpy as np
from numpy.typing import NDArray


def active_units(codes: NDArray[np.float64], threshold: float = 0.01) -> int:
    """Dimensions of the posterior means (N, Z) whose variance over the data exceeds `threshold`.

    Burda et al. 2016, section 5.2. A code with few active units has collapsed.
    """
    return int((codes.var(axis=0) > threshold).sum())
