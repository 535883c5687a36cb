r"""Writes and reads files of encrypted pieces, which show whether they were changed or cut.

A file begins with 32 bytes: `HFREC01\n`, 8 bytes that name the key, and a salt. Each piece has 4
bytes, its length and whether it goes on in the next one, and its bytes encrypted by AES-256-GCM.
The key of the file derives from the salt, and the nonce of a piece is its number, so no piece can
be left out, repeated or moved (STREAM; Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015). This
module does not know what the pieces mean.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from heterofed.errors import RecordError
from heterofed.protocol.codec import Buffer

MAGIC = b"HFREC01\n"
NAME_BYTES, SALT_BYTES, TAG_BYTES = 8, 16, 16
HEAD_BYTES = len(MAGIC) + NAME_BYTES + SALT_BYTES

MOST = 8 << 20
"""The most bytes that are encrypted at once."""

GOES_ON = 1 << 31
"""The bit of a length that says that the next bytes belong to the same piece."""

_LENGTH = struct.Struct("<I")


def name_of(key: bytes) -> bytes:
    """Return the name by which a file refers to its key, and which tells nothing of the key."""
    return hmac.digest(key, b"name", sha256)[:NAME_BYTES]


class SealedWriter:
    """Appends pieces to a new file.

    Args:
        file: the file, which is empty.
        key: the 32 secret bytes.
    """

    def __init__(self, file: BinaryIO, key: bytes) -> None:
        salt = secrets.token_bytes(SALT_BYTES)
        self._file, self._cipher, self._number = file, _cipher(key, salt), 0
        file.write(MAGIC + name_of(key) + salt)

    def add(self, *parts: Buffer) -> None:
        """Append a piece, whose bytes are those of `parts`. It survives a kill of this process.

        Raises:
            OSError: the file cannot be written.
        """
        whole = memoryview(b"".join(parts))
        for start in range(0, max(1, len(whole)), MOST):
            some = whole[start : start + MOST]
            length = _LENGTH.pack(len(some) | (GOES_ON if start + MOST < len(whole) else 0))
            self._file.write(length + self._cipher.encrypt(_nonce(self._number), some, length))
            self._number += 1
        self._file.flush()


def key_name_in(path: Path) -> bytes:
    """Return the name of the key of a file.

    Raises:
        RecordError: the file is no record, or cannot be read.
    """
    with _opened(path) as file:
        return _head(file, path)[0]


def pieces(path: Path, key: bytes) -> Iterator[bytes]:
    """Yield the pieces of a file; one that was cut off at the end is left out.

    Raises:
        RecordError: the file is no record, cannot be read, has another key, or was changed.
    """
    with _opened(path) as file:
        name, salt = _head(file, path)
        if name != name_of(key):
            raise RecordError(f"{path} was written with another key; bring back its own key")
        cipher, number, whole = _cipher(key, salt), 0, list[bytes]()
        while len(length := file.read(_LENGTH.size)) == _LENGTH.size:
            (size,) = _LENGTH.unpack(length)
            goes_on, size = bool(size & GOES_ON), size & ~GOES_ON
            if size > MOST:
                raise _changed(path)
            sealed = file.read(size + TAG_BYTES)
            if len(sealed) < size + TAG_BYTES:
                return
            try:
                whole.append(cipher.decrypt(_nonce(number), sealed, length))
            except InvalidTag:
                raise _changed(path) from None
            number += 1
            if not goes_on:
                yield whole[0] if len(whole) == 1 else b"".join(whole)
                whole.clear()


def _opened(path: Path) -> BinaryIO:
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "it is not a plain file")
        return file
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror}); make it readable, or bring it back"
        ) from None


def _without_waiting(path: str, flags: int) -> int:
    """Open a path, and do not wait for another process if it is a pipe."""
    return os.open(path, os.O_RDONLY | flags | getattr(os, "O_NONBLOCK", 0))


def _head(file: BinaryIO, path: Path) -> tuple[bytes, bytes]:
    head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES or not head.startswith(MAGIC):
        raise RecordError(f"{path} is no record of this version of heterofed; remove it")
    return head[len(MAGIC) : -SALT_BYTES], head[-SALT_BYTES:]


def _changed(path: Path) -> RecordError:
    return RecordError(f"{path} was changed or is damaged; bring back the file that was written")


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"file" + salt, sha256))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
