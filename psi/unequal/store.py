"""Keeps the outputs of a large set on disk, with its key and with who may ask.

A folder holds `set.json`, the counts of evaluated values, and one folder for the set, which is
named after it:

    key      the secret key, 32 bytes
    filter   what the owner ships once (`psi.unequal.filter`)
    table    proof and reply of each id (`psi.unequal.table`)

While a set is created, a file has the state of the creation (`psi.unequal.unfinished`).

A set is replaced as a whole, with a new key, because two filters under one key would show which ids
were added. The names of replaced sets are kept, so that a request for one is refused by name.
Nobody may ask until `allow` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from psi.errors import ChangedIdsError, NotAllowedError, StoreError
from psi.executors import Pool, check_key
from psi.storage.budget import Budget
from psi.storage.files import file_lock, private_folder, put_in_place, read, remove_drafts
from psi.storage.id_list import OwnIds
from psi.storage.spill import BUCKET_IDS, Scratch
from psi.unequal.compute import Outputs, Progress
from psi.unequal.filter import Shape, chunks_of
from psi.unequal.outputs import KEY_BYTES, check_of, name_of, public_of
from psi.unequal.table import Table
from psi.unequal.unfinished import Unfinished
from psi.workers import Workers

_STATE, _KEY, _FILTER, _TABLE, _BUDGETS = "set.json", "key", "filter", "table", "budgets"
_VERSION = 1
_LOCK_SECONDS = 30
_IS_NAME = re.compile("[0-9a-f]{16}").fullmatch


@dataclass(frozen=True, slots=True)
class State:
    """The content of `set.json`."""

    name: str
    """The name of the current set."""
    count: int
    """The number of its ids."""
    check: str
    """A check value of its key and its domain, in hexadecimal digits."""
    allowed: dict[str, int] = field(default_factory=dict)
    """The number of values that each peer may have evaluated in all, by the peer's name."""
    replaced: list[str] = field(default_factory=list)
    """The names of earlier sets."""
    ids: str = ""
    """A digest of its ids in their order, under its key, in hexadecimal digits; empty in a set of a
    version that kept none.
    """
    version: int = _VERSION


class StoredSet:
    """The stored outputs of a large set.

    Args:
        folder: the folder that `create` made.

    Raises:
        StoreError: there is no stored set in the folder, or its files are damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._state()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        ids: Iterable[str],
        *,
        domain: bytes,
        false_positive_rate: float = 1e-7,
        workers: int | None = None,
        executor: Executor | Pool | str | None = None,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
        key_leaves: bool | None = None,
        progress: Progress | None = None,
        fresh: bool = False,
    ) -> StoredSet:
        """Compute the outputs of all ids under a new key, store them, and return the stored set.

        An id takes one multiplication and one map to the group. An interrupted call leaves the
        former set as it was, and the next call goes on where it was, with the same key.

        Args:
            folder: the folder for the set. If it has one, that set is replaced: requests for it are
                refused from then on. Whoever was allowed to ask still is.
            ids: the ids of this party: unique strings, from any iterable.
            domain: the domain, which both parties must give the same.
            false_positive_rate: the highest rate of the filter.
            workers: the number of concurrent operations; None means one per usable core.
            executor: runs the work elsewhere; the ids and the key are sent to it.
            bucket_ids: more ids than this are kept in files instead of in memory.
            scratch: the folder for those files; None means the system's temporary folder.
            key_leaves: whether the key may be sent to an executor on other machines; see
                `psi.signing.Signer`.
            progress: is called with the number of computed outputs, again and again.
            fresh: whether to start anew even if an interrupted call could go on.

        Raises:
            IdsError: the ids are not unique strings, or one is too long.
            ChangedIdsError: the ids, their order or the domain are not those of an interrupted
                call.
            StoreError: another process creates a set in the folder.
            ValueError: there is no filter with such a rate.
        """
        check_key(executor, key_leaves)
        files, several = Scratch(bucket_ids, scratch), Workers(workers, executor)
        with contextlib.ExitStack() as stack:
            own = ids if isinstance(ids, OwnIds) else None
            if own is None:
                own = OwnIds(ids, bucket_ids=bucket_ids, scratch=scratch)
                stack.callback(own.close)
            for each in (files, several):
                stack.callback(each.close)
            shape = Shape.of(len(own), false_positive_rate)
            place = private_folder(Path(folder))
            with Unfinished(place, domain=domain, ids=own.digest(), fresh=fresh) as unfinished:
                outputs = Outputs(domain, own, unfinished, several, files, progress)
                state = _state_of(outputs.public, unfinished.key, domain, own)
                _complete(place, state, unfinished, outputs, shape)
                unfinished.discard()
        return cls(folder)

    @property
    def name(self) -> str:
        """The name of the current set, 16 hexadecimal digits."""
        return self._state().name

    @property
    def count(self) -> int:
        """The number of ids of the current set."""
        return self._state().count

    @property
    def replaced(self) -> list[str]:
        """The names of earlier sets."""
        return self._state().replaced

    @property
    def filter_path(self) -> Path:
        """The file of the filter, which may be given to whoever is allowed to ask."""
        return self._folder / self._state().name / _FILTER

    def filter_chunks(self) -> Iterator[bytes]:
        """Return the bytes of the filter in chunks of at most 1 MiB."""
        return chunks_of(self.filter_path)

    def allow(self, peer: str, max_ids: int) -> None:
        """Let a peer have so many values evaluated, over all its requests, now and later.

        Args:
            peer: the name of the peer, which the caller has authenticated whenever it asks.
            max_ids: the number of values in all; 0 forbids everything.
        """
        if max_ids < 0:
            raise ValueError("max_ids must not be negative")
        with _locked(self._folder):
            state = self._state()
            _write_state(self._folder, replace(state, allowed={**state.allowed, peer: max_ids}))

    def allowed(self, peer: str) -> int:
        """Return how many values a peer may have evaluated in all.

        Raises:
            NotAllowedError: the peer may not ask at all.
        """
        most = self._state().allowed.get(peer, 0)
        if not most:
            raise NotAllowedError("this peer may not ask; if it should, call StoredSet.allow")
        return most

    @property
    def limits(self) -> dict[str, int]:
        """The number of values that each peer may have evaluated in all, by the peer's name."""
        return dict(self._state().allowed)

    def budget(self, peer: str) -> Budget:
        """Return the count of the values that were evaluated for a peer."""
        return Budget(self._folder / _BUDGETS, peer=peer, task="stored set")

    def require(self, ids: OwnIds) -> None:
        """Check that these ids are those of the current set, in the order of its creation.

        Positions from `SetAnswerer.matched` then mean these ids.

        Raises:
            ChangedIdsError: they are not, or the set was created by a version that cannot tell.
            StoreError: a file of the set is missing or damaged.
        """
        state = self._state()
        if not state.ids:
            raise ChangedIdsError(
                f"the set in {self._folder} was created by an older version, which kept no digest"
                " of its ids, so nobody can tell whether these are they; create the set again"
            )
        if len(ids) != state.count:
            why = f"there are {len(ids)}, and the set has {state.count}"
        elif _digest_under(self.key(), ids) != state.ids:
            why = "as many, but some are others, or they are in another order"
        else:
            return
        raise ChangedIdsError(
            f"these are not the ids of the set in {self._folder}: {why}; give those with which it"
            " was created, in their order, or create it again with these"
        )

    def key(self) -> bytes:
        """Return the secret key.

        Raises:
            StoreError: the file is missing or damaged.
        """
        path = self._folder / self.name / _KEY
        with contextlib.suppress(FileNotFoundError):
            key = read(path)
            if len(key) == KEY_BYTES and name_of(public_of(key)) == self.name:
                return key
        raise StoreError(f"{path} is missing or damaged; create the stored set again")

    def table(self) -> Table:
        """Return proofs and replies of the ids; the caller closes it."""
        return Table(self._folder / self.name / _TABLE)

    def _state(self) -> State:
        return _read_state(self._folder)


def _read_state(folder: Path) -> State:
    path = folder / _STATE
    try:
        raw = json.loads(read(path))
        state = State(**raw)
    except FileNotFoundError:
        raise StoreError(f"there is no stored set in {folder}; call StoredSet.create") from None
    except (ValueError, TypeError):
        raise StoreError(f"{path} is damaged; create the stored set again") from None
    if state.version != _VERSION:
        raise StoreError(f"{path} has another version; create the stored set again")
    return state


def _write_state(folder: Path, state: State) -> None:
    put_in_place(folder / _STATE, json.dumps(asdict(state), indent=1).encode())


def _state_of(public: bytes, key: bytes, domain: bytes, ids: OwnIds) -> State:
    """Return the state of a set that nobody may ask yet."""
    check = check_of(public, domain).hex()
    return State(name_of(public), len(ids), check, ids=_digest_under(key, ids))


def _digest_under(key: bytes, ids: OwnIds) -> str:
    return blake2b(ids.digest(), digest_size=16, key=key).hexdigest()


def _complete(
    place: Path, state: State, unfinished: Unfinished, outputs: Outputs, shape: Shape
) -> None:
    """Compute what is missing of a set, write its files, and make it the current one."""
    _remove_sets(place, state.name, _current(place))
    inside = private_folder(place / state.name)
    remove_drafts(inside)
    outputs.write(shape, inside / _FILTER, inside / _TABLE)
    put_in_place(inside / _KEY, unfinished.key)
    with _locked(place):
        _replace_set(place, state)


def _current(folder: Path) -> str:
    """Return the name of the set in a folder, or nothing if there is none."""
    return _read_state(folder).name if (folder / _STATE).exists() else ""


def _replace_set(folder: Path, state: State) -> None:
    """Make a complete set the current one; limits and the names of former sets stay."""
    former = _read_state(folder) if (folder / _STATE).exists() else state
    replaced = former.replaced
    if former.name != state.name:
        replaced = [*replaced, former.name]
    _write_state(folder, replace(state, allowed=former.allowed, replaced=replaced))
    _remove_sets(folder, state.name)


def _remove_sets(folder: Path, *keep: str) -> None:
    """Remove the folders of all other sets: replaced ones, and those of interrupted calls."""
    for each in folder.iterdir():
        if _IS_NAME(each.name) and each.name not in keep and not each.is_symlink():
            shutil.rmtree(each)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with file_lock(folder / "set.lock", _LOCK_SECONDS):
        yield
