"""What a signer keeps on disk, where its caller says so: the key, and the own tags made with it.

Two uses. Without `reuse`, a killed signer goes on with the same key: it signs what is missing, and
again, without counting it, what it has signed of late to the last byte. Once the tags leave, the
secret key is removed: nothing more is signed under it. The tags stay, so that a requester that
holds all results may have the same answer again, in this run or a later one, and learns nothing by
it but that the signer's set is the same.

With `reuse`, the secret key stays too, and later runs may have other values signed with it. The
signer's own half of the work is saved, and this is what it costs:

- The peer has the tags before it asks, so it may choose each guess by what the ones before gave;
  and what it had signed once stays of use. The budget still bounds how many values are signed.
- The bytes of two runs can be linked by whoever sees them.
- Who reads the file can test any guess against the recorded bytes of every run under this key.

So it is for one named peer, needs a budget, and both sides must give the same domain each time.
The files (`psi.storage.journal`, mode 0600) are bound to protocol, domain and the own ids in their
order: once any of these changes, they are removed and another key is made.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from psi.storage.journal import Journal
from psi.storage.spill import cut

_PUBLIC, _SPENT, _OWN, _TAGS_OUT, _SIGNED = b"P", b"S", b"O", b"T", b"C"
_DIGEST = 32
RECORD_BYTES = 40  # tag, match proof and position of an own id
RECENT_CHUNKS = 16  # that are known again; an honest requester has three on their way


class KeptKey:
    """A signer's key and own tags for one peer.

    Args:
        folder: where the files lie; made if it is missing. Back it up nowhere.
        peer: the requester's name.
        task: the task's name.
        reuse: whether runs after this one may have values signed; read what that shows above.

    Attributes:
        kept: whether an earlier object has made the key.
        public: the public key of an earlier object, with its proof; empty for a new key.
        recent: digests of the chunks that were signed of late.
        tags_out: whether the tags have left, so that nothing more may be signed; with `reuse`,
            where runs do not count, always False.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, peer: str, task: str, reuse: bool = False
    ) -> None:
        self.reuse = reuse
        kind = "reuse" if reuse else "key"
        self._journal = Journal(folder, kind, peer=peer, task=task)
        self._secret = Journal(folder, kind, peer=peer, task=task, suffix=".key")
        self._bound: Sequence[bytes] = ()
        self._spent: int | None = None
        self.public = b""
        self.kept = False
        self.recent: deque[bytes] = deque(maxlen=RECENT_CHUNKS)
        self.tags_out = False

    def open(self, bound: Sequence[bytes], take: Callable[[list[bytes]], None]) -> bytes | None:
        """The secret key of an earlier object that belongs to `bound`, or None.

        Without it, and unless the tags are out, a new key is due: then `begin` comes next.

        Args:
            bound: what key and tags belong to.
            take: gets the records of own ids that are there.
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
            if not key:  # only now is it known that the records are of use
                self._journal.close()
                for data in self._read(bound):
                    take(cut(data, RECORD_BYTES))
        else:
            self._begin_anew()
        return None

    def begin(self, key: bytes, public: bytes) -> None:
        """Put a new key on disk."""
        self._journal.append(_PUBLIC + public)
        self._secret.append(_digest_of(public) + key)

    def put(self, records: Sequence[bytes]) -> None:
        """Put records of own ids on disk; what a crash takes is computed again."""
        self._journal.append(_OWN + b"".join(records), sync=False)

    def signed_before(self, spent: int) -> int:
        """Values that earlier objects signed in this run; 0 with `reuse`, where runs do not count.

        Args:
            spent: what the budget has counted up to now.
        """
        if self._spent is None or self._spent > spent:
            self._spent = spent
            self._journal.append(_SPENT + spent.to_bytes(8, "big"))
        return 0 if self.reuse else spent - self._spent

    def note_signed(self, digest: bytes) -> None:
        """Put on disk that a chunk was counted and is signed."""
        self.recent.append(digest)
        self._journal.append(_SIGNED + digest, sync=False)

    def note_tags_out(self) -> None:
        """Put on disk that the tags leave, and remove the key; comes before the first one does."""
        if not self.tags_out and not self.reuse:
            self.tags_out = True
            self._journal.append(_TAGS_OUT)
            self._secret.discard()

    def close(self) -> None:
        """Let go of the files; they stay."""
        self._journal.close()
        self._secret.close()

    def discard(self) -> None:
        """Remove the files and with them the key: the tags are not used again."""
        self._journal.discard()
        self._secret.discard()

    def _read(self, bound: Sequence[bytes]) -> Iterator[bytes]:
        """Take in what is on disk; gives the records of own ids."""
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
