"""The rules for tensors: their sizes, their names, and that they stay the same between batches."""

from __future__ import annotations

import math

from heterofed.protocol.messages import GRADIENT_DTYPES, Features, ServeAnswer, TensorSpec
from heterofed.protocol.plan import Coding
from heterofed.protocol.rules.rule import require

MAX_SPAN = 1 << 40
"""The most items of a tensor, counting empty dimensions as 1."""


def check_tensors(
    tensors: tuple[TensorSpec, ...], size: int, coding: Coding, max_bytes: int
) -> None:
    """Check that a payload of `size` bytes holds these tensors, and `max_bytes` all of them plain.

    Raises:
        Refused: it does not, a shape is one that no memory holds, or two have the same name.
    """
    made = plain = span = 0
    for spec in tensors:
        plain += spec.nbytes
        made += spec.coded_bytes(coding)
        span = max(span, math.prod([each or 1 for each in spec.shape]))
    require(made == size, "shapes that do not make its size")
    require(plain <= max_bytes, "more bytes than max_batch_bytes")
    require(span <= MAX_SPAN, "a shape that no memory holds")
    require(len({spec.name for spec in tensors}) == len(tensors), "a tensor's name twice")


def check_rows(message: Features | ServeAnswer) -> None:
    """Check that tensors have as many rows as their message says, and the names of its layout.

    Raises:
        Refused: they do not.
    """
    rows = {spec.shape[0] for spec in message.tensors}
    require(rows == {message.rows}, "tensors of other row counts than it says")
    require(_fits_layout(message), "tensor names that do not fit its layout")


def _fits_layout(message: Features | ServeAnswer) -> bool:
    names = [spec.name for spec in message.tensors]
    if message.layout == "tensor":
        return names == [""]
    if message.layout == "tuple":
        return names == [str(place) for place in range(len(names))]
    return all(name.isprintable() for name in names)


def form_of(features: Features) -> tuple[object, ...]:
    """Return the properties of features that may not change from batch to batch."""
    tensors = ((spec.name, spec.dtype, _extent(spec)) for spec in features.tensors)
    return (features.layout, *tensors)


def _extent(spec: TensorSpec) -> tuple[object, ...]:
    """Return the properties of a tensor's shape, without the rows, that may not change.

    These are the number of dimensions and which of them are empty. The width of a floating matrix,
    which is an embedding, may not change either. Other sizes may change, as those of sequences do.
    """
    sizes = spec.shape[1:]
    is_embedding = len(sizes) == 1 and spec.dtype in GRADIENT_DTYPES
    return sizes if is_embedding else tuple(size > 0 for size in sizes)


def is_masked(features: Features) -> bool:
    """Return whether features can be a part of a masked sum, which are one tensor of integers."""
    return features.layout == "tensor" and [spec.dtype for spec in features.tensors] == ["int64"]
