"""Authenticates what the processes of one party send each other, because they unpickle it.

All of them know a secret that other users of the machine cannot read. Two ranks that connect draw a
number each, and derive their key of this launch from both numbers and the secret. Each message has
an HMAC-SHA256 (RFC 2104) under that key, over its direction and number too, so that a message can
neither be made up nor repeated, turned round or left out. Nothing is unpickled before that.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from pathlib import Path

from heterofed.errors import RankLostError
from heterofed.files import heterofed_home, private_folder, put_in_place, read

Part = bytes | memoryview

SIZE = 32
"""The length in bytes of a secret, of a drawn number and of a tag."""

FILE = "ranks.key"
"""The name of the file with the secret."""


def new_secret(folder: Path) -> bytes:
    """Draw a secret, and write it to a private folder for the other processes."""
    put_in_place(folder / FILE, lambda file: file.write(secrets.token_bytes(SIZE)), new=True)
    return secret_in(folder)


def secret_in(folder: Path) -> bytes:
    """Return the secret that a private folder has.

    Raises:
        RankLostError: the file is damaged.
    """
    found = read(folder / FILE)
    if len(found) != SIZE:
        raise RankLostError(f"{folder / FILE} is damaged; remove it, and start the party again")
    return found


def secret_of_user() -> bytes:
    """Return the secret of this user's processes, which the first one draws."""
    folder = private_folder(heterofed_home(), "keys")
    if not (folder / FILE).exists():
        try:
            return new_secret(folder)
        except FileExistsError:  # another rank was first
            pass
    return secret_in(folder)


def drawn() -> bytes:
    """Return the number that a rank draws for one launch."""
    return secrets.token_bytes(SIZE)


class Seal:
    """The tags of what one rank sends to another, and of what it receives from it.

    Args:
        secret: the secret that both have.
        numbers: the drawn numbers, that of rank 0 first.
        own: the number of this rank.
        other: the number of the other rank.
    """

    def __init__(self, secret: bytes, numbers: tuple[bytes, bytes], own: int, other: int) -> None:
        self._key = hmac.digest(secret, b"ranks of heterofed" + b"".join(numbers), "sha256")
        self._own, self._other = own, other
        self._sent = self._received = 0

    def tag(self, *parts: Part) -> bytes:
        """Return the tag of the next message to the other rank."""
        self._sent += 1
        return self._tag(self._own, self._other, self._sent, parts)

    def check(self, tag: bytes, *parts: Part) -> None:
        """Check the tag of the next message from the other rank.

        Raises:
            RankLostError: the other rank did not send this message, or not now.
        """
        self._received += 1
        right = self._tag(self._other, self._own, self._received, parts)
        if not hmac.compare_digest(right, tag):
            raise RankLostError(
                f"what came from rank {self._other} was not sent by a process of this party; if"
                f" it runs on several machines, give all of them the {FILE} of rank 0 (in"
                " HETEROFED_HOME/keys), and start all parties again"
            )

    def _tag(self, source: int, target: int, number: int, parts: tuple[Part, ...]) -> bytes:
        sizes = [memoryview(each).nbytes for each in parts]
        whole = hmac.new(self._key, digestmod="sha256")
        whole.update(struct.pack(f"<{3 + len(sizes)}Q", source, target, number, *sizes))
        for each in parts:
            whole.update(each)
        return whole.digest()
