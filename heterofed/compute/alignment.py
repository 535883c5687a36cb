"""Checks ids, splits them, digests them with a key, and orders them for a round.

This module works on plain strings and bytes, without torch. Ids are compared by exact code points
and are never normalised.
"""

from __future__ import annotations

import hashlib
import hmac
import operator
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, islice

import numpy as np

from heterofed.compute.packed_ids import Positions
from heterofed.compute.plain import strings
from heterofed.errors import EmptySplitError, IdError

TEST_SHARE = 0.2

DIGESTED_AT_ONCE = 4096
"""A collection of ids."""


class SortedIdSet(set[str]):
    """A set of ids that iterates in sorted order, so that `list(ids)[:n]` is the same at every
    party.

    In everything else it is a plain set.
    """

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(set.__iter__(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} ids>"  # ids do not belong in logs


def check_ids(ids: object, what: str = "load_local_ids") -> list[str]:
    """Check the ids that `load_local_ids` or another hook returned, and return them as a list.

    Args:
        ids: the ids, of any list-like type.
        what: the name of the hook or argument for errors.

    Raises:
        IdError: there is no id, or an id is not a string, is repeated or holds a lone surrogate.
            The message gives counts and positions, and never an id.
    """
    listed = strings(ids, what)
    if not listed:
        raise IdError(f"{what} gave no id, so there is nothing to work on; return one at least")
    for position, each in enumerate(listed):
        if not _can_travel(each):
            raise IdError(
                f"{what}: position {position} holds a lone surrogate, which no encoding can carry;"
                " read the data with its real encoding"
            )
    ordered = sorted(listed)  # takes a tenth of the memory of a set
    if any(map(operator.eq, ordered, islice(ordered, 1, None))):
        repeated = {each for each, times in Counter(listed).items() if times > 1}
        positions = [p for p, each in enumerate(listed) if each in repeated]
        shown = ", ".join(map(str, positions[:6])) + (", ..." if len(positions) > 6 else "")
        raise IdError(
            f"{what} gave {len(repeated)} id{'s' * (len(repeated) > 1)} more than once"
            f" (positions {shown}); ids must be unique, so drop the repeated rows"
        )
    return listed


def _can_travel(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def default_split(ids: Iterable[str]) -> tuple[set[str], set[str]]:
    """Split ids 80/20 by a hash of each id.

    The split is the same at every party, and ids keep their part when others are added.
    """
    train: set[str] = set()
    test: set[str] = set()
    for each in ids:
        digest = hashlib.sha256(b"heterofed split\0" + each.encode()).digest()
        is_test = int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64
        (test if is_test else train).add(each)
    return train, test


def check_split(split: object, *, may_be_empty: bool = False) -> tuple[list[str], list[str]]:
    """Check the result of `split_dataset`, and return the sorted train and test ids.

    Args:
        split: the result.
        may_be_empty: whether there may be no train ids or no test ids, as at a site of a role.

    Raises:
        IdError: the result is not a pair of collections of unique strings.
        EmptySplitError: there are no train ids or no test ids.
    """
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise IdError(
            "split_dataset must return two sets, (train ids, test ids), not a"
            f" {type(split).__name__}; return both in a tuple"
        )
    parts = []
    for part, name in zip(split, ("train", "test"), strict=True):
        part = strings(part, f"split_dataset: the {name} ids")  # noqa: PLW2901
        if not all(map(_can_travel, part)):
            raise IdError(
                f"split_dataset: one of the {name} ids holds a lone surrogate; return ids of those"
                " that it was given"
            )
        if len(set(part)) != len(part):
            raise IdError(f"split_dataset returned {name} ids more than once; return sets")
        if not part and not may_be_empty:
            raise EmptySplitError(
                f"split_dataset left no {name} ids; give every party the same split with both"
            )
        parts.append(sorted(part))
    return parts[0], parts[1]


def check_places(places: object, count: int) -> tuple[Positions, Positions]:
    """Check the result of `split_places`, and return the positions of train and test ids.

    Args:
        places: the result.
        count: the number of the common ids.

    Raises:
        IdError: the result is not a pair of ascending positions.
        EmptySplitError: there are no train ids or no test ids.
    """
    if not isinstance(places, tuple | list) or len(places) != 2:
        raise IdError(
            "split_places must return two arrays, (train positions, test positions), not a"
            f" {type(places).__name__}; return both in a tuple"
        )
    parts = []
    for part, name in zip(places, ("train", "test"), strict=True):
        try:
            at = np.asarray(part)
        except ValueError:  # of lists of several lengths
            at = np.asarray(None)
        if at.ndim == 1 and not len(at):
            raise EmptySplitError(
                f"split_places left no {name} ids; give every party the same split with both"
            )
        is_fine = at.ndim == 1 and at.dtype.kind in "iu"
        if not is_fine or at[0] < 0 or at[-1] >= count or not (at[:-1] < at[1:]).all():
            raise IdError(
                f"split_places: the {name} positions must be whole numbers from 0 to {count - 1} in"
                " ascending order, none twice; return them as arrays of NumPy"
            )
        parts.append(at.astype(np.int64))
    return parts[0], parts[1]


def pack_parts(ids: Iterable[str], train: Iterable[str], test: Iterable[str]) -> bytes:
    """Encode in which part each id is, with two bits per id in the order of the ids.

    The bits are 1 for a train id, 2 for a test id and 0 for neither; the lowest bits of a byte come
    first.
    """
    trained, tested = set(train), set(test)
    bits = [(each in trained, each in tested) for each in ids]
    return np.packbits(np.asarray(bits, dtype=bool).ravel(), bitorder="little").tobytes()


def unpack_parts(ids: Sequence[str], packed: bytes) -> tuple[list[str], list[str]]:
    """Return the train and test ids that `pack_parts` encoded for the same ids."""
    raw = np.frombuffer(packed, dtype=np.uint8)
    bits = np.unpackbits(raw, count=2 * len(ids), bitorder="little").astype(bool)
    train, test = bits[::2], bits[1::2]
    return list(compress(ids, train)), list(compress(ids, test))


def keyed_digest(secret: bytes, purpose: str, ids: Sequence[str]) -> bytes:
    """Return an HMAC-SHA256 over ids in their order, 32 bytes.

    The ids are hashed in groups of 4096, of which the last may be smaller. Each group consists of
    its number of ids and the number of code points of each id (8 bytes, big-endian), and then of
    their text in UTF-8.

    The digest is keyed because ids are guessable: without `secret` nobody can test a guess.
    """
    begin = purpose.encode() + b"\0"
    if len(ids) <= DIGESTED_AT_ONCE:  # at once, which is faster
        return hmac.digest(secret, begin + _digested(ids) if ids else begin, "sha256")
    mac = hmac.new(secret, begin, hashlib.sha256)
    for start in range(0, len(ids), DIGESTED_AT_ONCE):
        mac.update(_digested(ids[start : start + DIGESTED_AT_ONCE]))
    return mac.digest()


def _digested(some: Sequence[str]) -> bytes:
    count, lengths = len(some), list(map(len, some))
    if lengths.count(lengths[0]) == count:  # as for most ids, and much faster
        packed = count.to_bytes(8, "big") + lengths[0].to_bytes(8, "big") * count
    else:
        packed = struct.pack(f">{1 + count}Q", count, *lengths)
    return packed + "".join(some).encode()


def round_order(ids: Sequence[str], *, seed: int, round_number: int, shuffle: bool) -> list[str]:
    """Return the train ids in this round's order, which is shuffled by the seed if `shuffle` is
    set.

    The order is that of NumPy's `RandomState`, whose numbers are the same in every version.
    """
    if not shuffle:
        return list(ids)
    places = shuffled(len(ids), seed=seed, round_number=round_number)
    return list(map(ids.__getitem__, places.tolist()))


def shuffled(count: int, *, seed: int, round_number: int) -> Positions:
    """Return the positions of so many train ids in this round's shuffled order."""
    start = stream_seed(seed, "shuffle", round_number)
    drawn = np.random.RandomState([start & 0xFFFFFFFF, start >> 32])
    return drawn.permutation(count)


def sorted_by_lot(ids: Sequence[str], *, seed: int, round_number: int) -> list[str]:
    """Return the train ids in this round's shuffled order, in which each id has a place of its own.

    Unlike that of `round_order`, the order of some of the ids does not depend on the others, so a
    party that knows only its own ids knows their order, too.
    """
    start = stream_seed(seed, "shuffle", round_number).to_bytes(8, "big")
    return sorted(ids, key=lambda each: hashlib.sha256(start + each.encode()).digest())


def some_ids(ids: Sequence[str], *, seed: int, most: int) -> list[str]:
    """Some of these ids, sorted: the same at every party that knows the seed."""
    return sorted(round_order(ids, seed=seed, round_number=0, shuffle=True)[:most])


def stream_seed(seed: int, *path: str | int) -> int:
    """Return the 63-bit seed of one random stream of the task, which is the same in every process.

    Args:
        seed: the plan's seed.
        path: the name of the stream, such as (feature key, hook, round, batch).
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
