"""Provides the group ristretto255 (RFC 9496) by calling libsodium through ctypes.

The group has prime order, so it has no cofactor and no small subgroups, and each element has one
encoding. libsodium's multiplication runs in constant time; it refuses encodings that are not
canonical and results that are the identity. ctypes releases the interpreter lock during each call,
so threads run in parallel.

The system's libsodium (1.0.18 or newer) is preferred because it gets the system's security updates.
Without it, the copy in the package `rbcl` is used. PyNaCl's copy does not export these functions.
Points and scalars are strings of 32 bytes, and most functions take many of them joined into one
string. This module knows nothing of PSI.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gmpy2 import mpz

from psi.errors import LibraryError

POINT_BYTES = 32
HASH_BYTES = 64
ORDER = 2**252 + 27742317777372353535851937790883648493

_pointer = ctypes.c_void_p
_PROTOTYPES: dict[str, list[Any]] = {
    "sodium_init": [],
    "crypto_core_ristretto255_from_hash": [_pointer, _pointer],
    "crypto_core_ristretto255_add": [_pointer, _pointer, _pointer],
    "crypto_core_ristretto255_is_valid_point": [_pointer],
    "crypto_scalarmult_ristretto255": [_pointer, _pointer, _pointer],
    "crypto_scalarmult_ristretto255_base": [_pointer, _pointer],
}


class PointRefusedError(ValueError):
    """An encoding is not canonical, or is the identity. Callers turn this into an error that names
    the party.
    """


class Group:
    """The operations of the group, on one loaded library. Several threads may call them."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.backend = f"libsodium ({name})"
        for function, arguments in _PROTOTYPES.items():
            found = getattr(library, function)
            found.restype, found.argtypes = ctypes.c_int, arguments
        if library.sodium_init() < 0:
            raise OSError("libsodium could not be initialised")
        self._from_hash = library.crypto_core_ristretto255_from_hash
        self._multiply = library.crypto_scalarmult_ristretto255
        self._add = library.crypto_core_ristretto255_add
        self._base = library.crypto_scalarmult_ristretto255_base
        self._is_valid = library.crypto_core_ristretto255_is_valid_point

    def from_hashes(self, hashes: bytes) -> bytes:
        """Return a point for every 64 uniform bytes, by the one-way map of RFC 9496, section
        4.3.4.
        """
        count = len(hashes) // HASH_BYTES
        source, target = _buffer(hashes), ctypes.create_string_buffer(count * POINT_BYTES)
        read, write = ctypes.addressof(source), ctypes.addressof(target)
        call = self._from_hash
        for number in range(count):
            call(write + number * POINT_BYTES, read + number * HASH_BYTES)
        return target.raw

    def multiply(self, scalars: bytes, points: bytes) -> bytes:
        """Return each point times its scalar, or times the only scalar.

        Args:
            scalars: one scalar per point or a single one; none may be 0 mod the order.
            points: the points.

        Raises:
            PointRefusedError: a point is not canonical, or is the identity.
        """
        keys, source = _buffer(scalars), _buffer(points)
        target = ctypes.create_string_buffer(len(points))
        key, read, write = map(ctypes.addressof, (keys, source, target))
        step = 0 if len(scalars) == POINT_BYTES else POINT_BYTES
        call = self._multiply
        for at in range(0, len(points), POINT_BYTES):
            if call(write + at, key, read + at) != 0:
                raise PointRefusedError
            key += step
        return target.raw

    def sum(self, points: bytes) -> bytes:
        """Return the sum of the points.

        Raises:
            PointRefusedError: a point is not canonical.
        """
        source, total = _buffer(points), ctypes.create_string_buffer(POINT_BYTES)
        read, write = ctypes.addressof(source), ctypes.addressof(total)
        for at in range(0, len(points), POINT_BYTES):
            if self._add(write, write, read + at) != 0:
                raise PointRefusedError
        return total.raw

    def base(self, scalar: bytes) -> bytes:
        """Return the generator times `scalar`, which must not be 0 mod the order."""
        key, target = _buffer(scalar), ctypes.create_string_buffer(POINT_BYTES)
        if self._base(ctypes.addressof(target), ctypes.addressof(key)) != 0:
            raise ValueError("the scalar is zero")
        return target.raw

    def is_point(self, point: bytes) -> bool:
        """Return whether this is the canonical encoding of an element other than the identity."""
        source = _buffer(point)
        return self._is_valid(ctypes.addressof(source)) == 1 and any(point)


def scalar(value: mpz | int) -> bytes:
    """Return a number in [0, order) in libsodium's encoding, 32 bytes little-endian."""
    return int(value).to_bytes(POINT_BYTES, "little")


def scalars_from(random: bytes) -> list[mpz]:
    """Return a scalar in [1, order) for every 64 uniform bytes, within 2^-250 of uniform."""
    cut = (random[at : at + HASH_BYTES] for at in range(0, len(random), HASH_BYTES))
    return [1 + mpz.from_bytes(each, "little") % (ORDER - 1) for each in cut]


@cache
def find_group(name: str | None = None) -> Group:
    """Return the group on the first library found, or on the named one ("system" or "rbcl").

    Raises:
        LibraryError: no such library was found.
    """
    tried = []
    for where, load in (("system", _system), ("rbcl", _bundled)):
        if name in (None, where):
            try:
                return Group(load(), where)
            except (OSError, AttributeError, ImportError) as error:
                tried.append(f"{where}: {error}")
    raise LibraryError(
        "ECDH needs libsodium 1.0.18 or newer: install it, or the package rbcl"
        f" (tried {'; '.join(tried)})"
    )


def _system() -> ctypes.CDLL:
    last: OSError | None = None
    for path in _candidates():
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            last = error
    raise last or OSError("no libsodium was found")


def _candidates() -> Iterator[str]:
    # Known names come first, because `find_library` runs other programs for 50 ms to search.
    if sys.platform.startswith("linux"):
        yield from ("libsodium.so.26", "libsodium.so.23")
    found = ctypes.util.find_library("sodium")
    if found is not None:
        yield found


def _bundled() -> ctypes.CDLL:
    import rbcl  # noqa: F401  # it unpacks its copy of libsodium into a temporary file

    module = sys.modules["rbcl._sodium"]  # `rbcl._sodium` itself is the library
    library: ctypes.CDLL = module._sodium
    # rbcl leaves that file behind in every process. It can be removed once it is loaded.
    with contextlib.suppress(OSError):
        Path(module.lib_path).unlink()
    return library


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))
