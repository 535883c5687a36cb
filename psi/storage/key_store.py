"""Keeps a signer's key and own tags on disk, if its caller asks for it.

There are two uses. Without `reuse`, a signer that was killed continues with the same key. It signs
the missing values, and it signs recent chunks again without counting them if their bytes are the
same. Before the tags are sent, the secret key is removed, so that nothing more is signed with it.
The tags stay on disk. A requester that holds all results can then get the same answer again, in
this run or a later one; it learns from this only that the signer's set is the same.

With `reuse`, the secret key stays too, and values of later runs are signed with it. This saves the
signer its own half of the work, at this cost:

- The peer has the tags before it asks, so it can choose each guess by the results of the previous
  ones, and its old signatures stay useful. The budget still bounds how many values are signed.
- Whoever sees the bytes of two runs can link them.
- Whoever reads the file can test any guess against recorded bytes of every run with this key.

Therefore `reuse` is for one named peer, needs a budget, and both sides must give the same domain
each time. The files (`psi.storage.journal`, mode 0600) are bound to the protocol, the domain and
the own ids in their order. If any of these changes, the files are removed and a new key is made.
A signer that sends something else than its tags can keep that, too, to send the same again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from psi.errors import FaultError
from psi.storage.files import put_in_place, read
from psi.storage.journal import Journal
from psi.storage.spill import cut

_PUBLIC, _SPENT, _OWN, _TAGS_OUT, _SIGNED = b"P", b"S", b"O", b"T", b"C"
_DIGEST = 32
RECORD_BYTES = 40  # the bytes of tag, match proof and position of an own id
RECENT_CHUNKS = 16  # chunks that are recognised again; an honest requester has three unanswered


class KeptKey:
    """A signer's key and own tags for one peer.

    Args:
        folder: the folder of the files; it is created if it is missing. Do not back it up.
        peer: the requester's name.
        task: the task's name.
        reuse: whether values of later runs may be signed with the same key. The docstring of the
            module says what this reveals.

    Attributes:
        kept: whether an earlier object made the key.
        public: the public key of an earlier object, with its proof; empty for a new key.
        recent: the digests of the chunks that were signed recently.
        tags_out: whether the tags were sent, so that nothing more may be signed. It is always False
            with `reuse`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, peer: str, task: str, reuse: bool = False
    ) -> None:
        self.reuse = reuse
        kind = "reuse" if reuse else "key"
        self._journal = Journal(folder, kind, peer=peer, task=task)
        self._secret = Journal(folder, kind, peer=peer, task=task, suffix=".key")
        self._sent = self._journal.path.with_suffix(".sent")
        self._bound: Sequence[bytes] = ()
        self._spent: int | None = None
        self.public = b""
        self.kept = False
        self.recent: deque[bytes] = deque(maxlen=RECENT_CHUNKS)
        self.tags_out = False

    def open(self, bound: Sequence[bytes], take: Callable[[list[bytes]], None]) -> bytes | None:
        """Return the secret key of an earlier object that is bound to `bound`, or None.

        If there is no key and the tags were not sent, the caller makes a new key and calls `begin`.

        Args:
            bound: the things that the key and the tags belong to.
            take: is called with the records of own ids that are on disk.
        """
        self._bound, self._spent = bound, None
        self.public, self.tags_out = b"", False
        secret = b""
        for frame in self._secret.open(bound):
            secret = frame
        digest, key = secret[:_DIGEST], secret[_DIGEST:]
        for data in self._read(bound):
            if key:
                take(cut(data, RECORD_BYTES))
        self.kept = True
        if key and digest == _digest_of(self.public) and not self.tags_out:
            return key
        if self.public and self.tags_out:
            self._secret.discard()
            # The records were skipped above, because only now they are known to be valid.
            if not key:
                self._journal.close()
                for data in self._read(bound):
                    take(cut(data, RECORD_BYTES))
        else:
            self._begin_anew()
        return None

    def begin(self, key: bytes, public: bytes) -> None:
        """Write a new key to disk."""
        self._journal.append(_PUBLIC + public)
        self._secret.append(_digest_of(public) + key)

    def put(self, records: Sequence[bytes]) -> None:
        """Write records of own ids to disk; records that a crash destroys are computed again."""
        self._journal.append(_OWN + b"".join(records), sync=False)

    def signed_before(self, spent: int) -> int:
        """Return how many values earlier objects signed in this run; it is 0 with `reuse`.

        Args:
            spent: the number of values that the budget has counted up to now.
        """
        if self._spent is None or self._spent > spent:
            self._spent = spent
            self._journal.append(_SPENT + spent.to_bytes(8, "big"))
        return 0 if self.reuse else spent - self._spent

    def note_signed(self, digest: bytes) -> None:
        """Record on disk that a chunk was counted and is signed."""
        self.recent.append(digest)
        self._journal.append(_SIGNED + digest, sync=False)

    def note_tags_out(self) -> None:
        """Record that the tags are sent, and remove the key. Call this before the first tag is
        sent.
        """
        if not self.tags_out and not self.reuse:
            self.tags_out = True
            self._journal.append(_TAGS_OUT)
            self._secret.discard()

    def keep_sent(self, content: bytes) -> None:
        """Write what is sent in place of the tags to disk, before any of it is sent."""
        put_in_place(self._sent, content)

    def sent(self) -> bytes:
        """Return what `keep_sent` wrote last for this key.

        Raises:
            FaultError: the file is gone.
        """
        try:
            os.utime(self._sent)  # so that its age shows when it was last used
            return read(self._sent)
        except FileNotFoundError:
            raise FaultError("the file with what was sent in place of tags is gone") from None

    def close(self) -> None:
        """Close the files and keep them on disk."""
        self._journal.close()
        self._secret.close()

    def discard(self) -> None:
        """Remove the files and with them the key, because the tags are not used again."""
        self._journal.discard()
        self._secret.discard()
        self._sent.unlink(missing_ok=True)

    def _read(self, bound: Sequence[bytes]) -> Iterator[bytes]:
        """Load the state from disk, and yield the records of own ids."""
        self.recent.clear()
        for frame in self._journal.open(bound):
            kind, data = frame[:1], frame[1:]
            if kind == _PUBLIC:
                self.public = data
            elif kind == _SPENT:
                self._spent = int.from_bytes(data, "big")
            elif kind == _TAGS_OUT:
                self.tags_out = True
            elif kind == _SIGNED:
                self.recent.append(data)
            else:
                yield data

    def _begin_anew(self) -> None:
        self.discard()
        self.public, self.kept = b"", False
        for journal in (self._journal, self._secret):
            for _ in journal.open(self._bound):
                pass


def _digest_of(public: bytes) -> bytes:
    return sha256(public).digest()
