"""Detects changes of a value by a cheap mark, which differs if the value does."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.sharded_tensors import own_part
from heterofed.runs.frozen_values import freeze
from heterofed.runs.object_walk import MANY, sampled

LARGE = 1 << 22
"""The bytes from which a value is compared by identity and version instead of by content."""
TEXT = str | bytes | bytearray


def arrays_in(value: Any) -> Iterator[Tensor | np.ndarray[Any, Any]]:
    """Yield the tensors and arrays in containers; of many items, only some."""
    if isinstance(value, Tensor | np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for each in sampled(value.values()):
            yield from arrays_in(each)
    elif isinstance(value, Collection) and not isinstance(value, TEXT):
        for each in sampled(value):
            yield from arrays_in(each)


def size_of(value: Any) -> int:
    """Return the approximate size in bytes."""
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Collection) and not isinstance(value, TEXT):
        parts = list(map(size_of, sampled(value.values() if isinstance(value, Mapping) else value)))
        return int(sum(parts) / max(1, len(parts)) * len(value)) + 64 * len(value)
    return len(value) if isinstance(value, TEXT) else 8


def is_large(value: Any) -> bool:
    """Return whether a value is too large, or has too many parts, to be compared completely."""
    if size_of(value) >= LARGE:
        return True
    if isinstance(value, Tensor | np.ndarray | str | bytes) or not isinstance(value, Collection):
        return False
    parts = value.values() if isinstance(value, Mapping) else value
    return len(value) > MANY or any(map(is_large, parts))


def mark_of(value: Any) -> object:
    """Return the mark of a value.

    It is a digest of the content. For a large value, it is the identity and version of a tensor,
    the digest of a sample of an array, or the marks of some items of a container.
    """
    if not is_large(value):
        return _digest(freeze(value))
    if isinstance(value, Tensor):
        return id(value), own_part(value).data_ptr(), value._version
    if isinstance(value, np.ndarray):
        some = value.ravel()[:: max(1, value.size >> 12)]
        return id(value), hashlib.blake2b(some.tobytes()).digest()
    if isinstance(value, Collection) and not isinstance(value, TEXT):
        parts = sampled(value.values() if isinstance(value, Mapping) else value)
        return len(value), [mark_of(each) for each in parts]
    return repr(value)


def _digest(frozen: Any) -> bytes:
    whole = hashlib.blake2b(digest_size=16)

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            whole.update(f"{part.dtype} {list(part.shape)} {part.layout}".encode())
            dense = part.to_dense() if part.layout != torch.strided else part
            raw = dense.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            whole.update(raw.numpy().tobytes())
        elif isinstance(part, list):
            whole.update(b"[")
            for each in part:
                add(each)
            whole.update(b"]")
        else:
            whole.update(f"{type(part).__name__} {part!r},".encode(errors="surrogatepass"))

    add(frozen)
    return whole.digest()
