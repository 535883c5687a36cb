"""Raises values to the secret exponent with OpenSSL's libcrypto, which is called through ctypes.

The package `cryptography` rightly does not offer unpadded RSA, but a blind signature needs it. This
module calls EVP_PKEY_decrypt with the padding mode "none", which computes x^d mod n by the Chinese
remainder theorem with constant-time exponentiation and base blinding. ctypes releases the
interpreter lock during each call, so threads run in parallel. Each thread borrows its own key
object, because a shared one would cost about 20 % in its blinding lock.

The library is the one that Python's `ssl` module is linked to, or else the one that the system's
loader finds. LibreSSL and BoringSSL are not used, because their guarantees have not been checked.
This module knows nothing of PSI.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from psi.errors import FaultError, StateError
from psi.rsa.backends.encoding import to_der

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_OLDEST = 0x10101000  # 1.1.1, as OpenSSL counts versions

_pointer, _size = ctypes.c_void_p, ctypes.c_size_t
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "OpenSSL_version": (ctypes.c_char_p, [ctypes.c_int]),
    "OpenSSL_version_num": (ctypes.c_ulong, []),
    "ERR_clear_error": (None, []),
    "d2i_AutoPrivateKey": (
        _pointer,
        [_pointer, ctypes.POINTER(ctypes.c_char_p), ctypes.c_long],
    ),
    "EVP_PKEY_free": (None, [_pointer]),
    "EVP_PKEY_CTX_new": (_pointer, [_pointer, _pointer]),
    "EVP_PKEY_CTX_free": (None, [_pointer]),
    "EVP_PKEY_decrypt_init": (ctypes.c_int, [_pointer]),
    "EVP_PKEY_CTX_ctrl_str": (ctypes.c_int, [_pointer, ctypes.c_char_p, ctypes.c_char_p]),
    "EVP_PKEY_decrypt": (
        ctypes.c_int,
        [_pointer, _pointer, ctypes.POINTER(_size), _pointer, _size],
    ),
}


@cache
def find_library() -> ctypes.CDLL | None:
    """The libcrypto of OpenSSL 1.1.1 or newer with its prototypes set, or None."""
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            for name, (result, arguments) in _PROTOTYPES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        genuine = library.OpenSSL_version(0).startswith(b"OpenSSL ")
        if genuine and library.OpenSSL_version_num() >= _OLDEST:
            return library
    return None


def _candidates() -> Iterator[str]:
    # The symbols of a library can also be looked up through a module that is linked to it.
    for module in ("_ssl", "_hashlib"):
        spec = find_spec(module)
        if spec is not None and spec.has_location and spec.origin is not None:
            yield spec.origin
    found = ctypes.util.find_library("crypto")
    if found is not None:
        yield found


class _Key:
    """One parsed key with its operation context; libcrypto overwrites both when they are freed."""

    def __init__(self, library: ctypes.CDLL, der: bytes) -> None:
        self._library = library
        self._key = self._context = None
        start = ctypes.c_char_p(der)
        self._key = library.d2i_AutoPrivateKey(None, ctypes.byref(start), len(der))
        self._context = library.EVP_PKEY_CTX_new(self._key, None) if self._key else None
        ready = (
            self._context is not None
            and library.EVP_PKEY_decrypt_init(self._context) == 1
            and library.EVP_PKEY_CTX_ctrl_str(self._context, b"rsa_padding_mode", b"none") == 1
        )
        if not ready:
            library.ERR_clear_error()
            raise FaultError("libcrypto did not accept the key")

    def __del__(self) -> None:
        self._library.EVP_PKEY_CTX_free(self._context)
        self._library.EVP_PKEY_free(self._key)

    def power_d(self, chunk: bytes, width: int) -> bytes:
        source = ctypes.create_string_buffer(chunk, len(chunk))
        target = ctypes.create_string_buffer(len(chunk))
        read, write = ctypes.addressof(source), ctypes.addressof(target)
        length = _size(width)
        written = ctypes.byref(length)
        decrypt, context = self._library.EVP_PKEY_decrypt, self._context
        for at in range(0, len(chunk), width):
            length.value = width
            done = decrypt(context, write + at, written, read + at, width)
            if done != 1 or length.value != width:
                self._library.ERR_clear_error()
                raise FaultError("libcrypto failed in a private operation")
        return target.raw


class OpenSSLBackend:
    """Holds one key object per thread; a call borrows one, and waits if all are in use."""

    name = "openssl"

    def __init__(self, library: ctypes.CDLL, key: RSAPrivateKey, workers: int) -> None:
        der = to_der(key)
        self._width = (key.key_size + 7) // 8
        self._workers = workers
        self._idle: SimpleQueue[_Key | None] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(_Key(library, der))

    def power_d(self, chunk: bytes) -> bytes:
        """See `psi.rsa.backends.Backend`."""
        key = self._idle.get()
        try:
            if key is None:
                raise StateError("the key was closed")
            return key.power_d(chunk, self._width)
        finally:
            self._idle.put(key)

    def close(self) -> None:
        """Wait for the calls in progress, then free all key objects. Later calls are refused."""
        for _ in range(self._workers):
            self._idle.get()
        self._workers = 0
        self._idle.put(None)
