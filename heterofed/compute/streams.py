"""Runs each call of user code on its own random stream, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import TypeVar

import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from heterofed.compute.rng import SEED_BYTES, RandomState, start_generators

T = TypeVar("T")

_NOTHING, _ZEROS = bytes(16), bytes(SEED_BYTES)

_GENERATORS = threading.RLock()
"""Held while a stream runs, because parties in one process share its global generators."""


def random_stream(seed: int | bytes, *path: str | int) -> AbstractContextManager[None]:
    """Run a block on the random numbers of one stream of the task, and restore the generators.

    Every call of user code runs on a stream with the name (feature key, hook, round, batch). So a
    split run draws the same dropout masks as a joined model that uses the same streams, whatever
    happens in between and in whichever process. The stream covers the global generators of torch
    (CPU and CUDA), NumPy and Python.

    Args:
        seed: the seed of the party.
        path: the name of the stream.
    """
    return _Stream((seed, *path))


class _Stream:
    """A block on one stream; a class, because each batch enters several of them."""

    __slots__ = ("_before", "_path")

    def __init__(self, path: tuple[int | bytes | str, ...]) -> None:
        self._path = path
        self._before: RandomState | None = None

    def __enter__(self) -> None:
        key = sha256(repr(self._path).encode()).digest()
        start = Cipher(ChaCha20(key, _NOTHING), mode=None).encryptor().update(_ZEROS)
        _GENERATORS.acquire()
        try:
            if not _depth.kept or _depth.streams:
                self._before = RandomState.now()
            start_generators(start)
        except BaseException:
            _GENERATORS.release()
            raise
        _depth.streams += 1

    def __exit__(self, *_error: object) -> None:
        _depth.streams -= 1
        try:
            if self._before is not None:
                self._before.restore()
        finally:
            _GENERATORS.release()


class _Depth(threading.local):
    """The number of nested streams on this thread, and whether `generators_kept` encloses them."""

    streams = 0
    kept = False


_depth = _Depth()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators at the end of the block instead of after each stream within it.

    Restoring takes longer than everything else that heterofed does for a batch.
    """
    with _GENERATORS:
        before = RandomState.now()
    _depth.kept = True
    try:
        yield
    finally:
        _depth.kept = False
        with _GENERATORS:
            before.restore()


def streamed(
    items: Iterable[T], seed: int | bytes, *path: str | int, grad: bool = True, first: int = 0
) -> Generator[T, None, None]:
    """Iterate user code from batch `first`, each step on the stream (path, batch number)."""
    iterator = iter(items)
    batch = first
    while True:
        with random_stream(seed, *path, batch), torch.set_grad_enabled(grad):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # frees it before the next one is made
        batch += 1
