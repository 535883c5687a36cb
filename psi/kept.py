"""What a signer keeps on disk, where its caller says so: the key, and the own tags made with it.

Two uses. Without `reuse`, a killed signer goes on with the same key in the same run; the file is
removed by `discard` once the run is over. With `reuse`, later runs with the same peer find the key
and all tags: the signer's own half of the work is saved, and this is what it costs:

- The peer sees the same tags again, so it sees that the signer's set is the same to the last id.
- It has the tags before it asks, so it may choose each guess by what the ones before gave; and
  what it had signed once stays of use. The budget still bounds how many values are signed.
- The bytes of two runs can be linked by whoever sees them.
- Who reads the file can test any guess against the recorded bytes of every run under this key.

So it is for one named peer, needs a budget, and both sides must give the same domain each time.
The file (`psi.journal`, mode 0600) is bound to protocol, domain and the own ids in their order:
once any of these changes, the key is removed and another one made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from psi.journal import Journal
from psi.records import cut

_KEY, _SPENT, _OWN, _TAGS_OUT = b"K", b"S", b"O", b"T"
RECORD_BYTES = 40  # tag, match proof and position of an own id


class KeptKey:
    """A signer's key and own tags for one peer.

    Args:
        folder: where the file lies; made if it is missing. Back it up nowhere.
        peer: the requester's name.
        task: the task's name.
        reuse: whether runs after this one may use them too; read what that shows above.

    Attributes:
        tags_out: whether the tags have left, so that nothing more may be signed in this run; with
            `reuse`, where runs do not count, always False.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, peer: str, task: str, reuse: bool = False
    ) -> None:
        self.reuse = reuse
        self._journal = Journal(folder, "reuse" if reuse else "key", peer=peer, task=task)
        self._spent: int | None = None
        self.tags_out = False

    def open(self, bound: Sequence[bytes], take: Callable[[list[bytes]], None]) -> bytes | None:
        """The key of an earlier object that belongs to `bound`, or None: then `begin` comes next.

        Args:
            bound: what key and tags belong to.
            take: gets the records of own ids that are there.
        """
        key = None
        for frame in self._journal.open(bound):
            kind, data = frame[:1], frame[1:]
            if kind == _KEY:
                key = data
            elif kind == _SPENT:
                self._spent = int.from_bytes(data, "big")
            elif kind == _TAGS_OUT:
                self.tags_out = True
            else:
                take(cut(data, RECORD_BYTES))
        return key

    def begin(self, key: bytes) -> None:
        """Put a new key on disk."""
        self._journal.append(_KEY + key)

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

    def note_tags_out(self) -> None:
        """Put on disk that the tags leave; comes before the first one does."""
        if not self.tags_out and not self.reuse:
            self.tags_out = True
            self._journal.append(_TAGS_OUT)

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._journal.close()

    def discard(self) -> None:
        """Remove the file and with it the key: the run is over, or the tags are not used again."""
        self._journal.discard()
