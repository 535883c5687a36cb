"""The defences to which a party raises its own when a measured leak has reached its limit.

The terms have to allow it (`raise_defence`). Each time the defence is raised, it is twice as strong
or stronger.
"""

from __future__ import annotations

import math

from torch import Tensor

from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.gradient_defences import GradientDefence, IsotropicGaussian
from heterofed.privacy.marvell import Marvell

LEAST_BOUND = 0.505


def raised_label_defence(raised: int, limit: float, *, is_binary: bool) -> GradientDefence:
    """Return the defence of gradients that was raised `raised` times.

    For two classes it is Marvell, whose bound begins at the limit and comes half as close to 0.5
    each time. For more classes it is isotropic noise of the power 4, 16 and 64.
    """
    if not is_binary:
        return IsotropicGaussian(4.0**raised)
    return Marvell(bound=max(0.5 + (limit - 0.5) / 2 ** (raised - 1), LEAST_BOUND))


def raised_input_defence(
    raised: int, given: ClippedGaussian | None, rows: Tensor, before: ClippedGaussian | None
) -> ClippedGaussian:
    """Return the defence of features that was raised `raised` times.

    The noise of a given defence is doubled each time. Without one, rows are clipped to the median
    length of this batch, and the noise is 1, 2 and 4 times as large as a typical feature.

    Args:
        raised: how often it was raised.
        given: the defence that this party's user has set, if any.
        rows: the features of a batch, of shape [rows, d].
        before: the last result, whose clipping is kept.
    """
    if given is not None:
        return ClippedGaussian(given.clip, given.noise_multiplier * 2.0**raised, given.delta)
    median = float(rows.detach().double().norm(dim=1).median())
    clip = before.clip if before is not None else max(median, 1e-12)
    return ClippedGaussian(clip, 2.0 ** (raised - 1) / math.sqrt(rows.shape[1]))
