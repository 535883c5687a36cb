"""Ids in an agreed order: checks of own ids, default split, keyed digests, order of a round.

Plain strings and bytes; no torch. Ids are exact code points, never normalised.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

import numpy as np

from heterofed.compute.plain import strings
from heterofed.errors import EmptySplitError, IdError

TEST_SHARE = 0.2

DIGESTED_AT_ONCE = 4096
"""Ids."""


class SortedIdSet(set[str]):
    """A set of ids that iterates in sorted order, so that `list(ids)[:n]` is the same everywhere.

    Everything else is a plain set.
    """

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(set.__iter__(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} ids>"  # ids do not belong in logs


def check_ids(ids: object, what: str = "load_local_ids") -> list[str]:
    """Check what `load_local_ids`, or another hook, returned and give it back as a list.

    Args:
        ids: the ids of any list-like type.
        what: names the hook or argument in errors.

    Raises:
        IdError: not unique, non-surrogate strings, or none. The message gives counts and positions,
            never an id.
    """
    listed = strings(ids, what)
    if not listed:
        raise IdError(f"{what} gave no id; there is nothing to work on")
    for position, each in enumerate(listed):
        if not _can_travel(each):
            raise IdError(
                f"{what}: position {position} holds a lone surrogate, which no encoding can carry;"
                " read the data with its real encoding"
            )
    repeated = {each for each, times in Counter(listed).items() if times > 1}
    if repeated:
        positions = [p for p, each in enumerate(listed) if each in repeated]
        shown = ", ".join(map(str, positions[:6])) + (", ..." if len(positions) > 6 else "")
        raise IdError(
            f"{what} gave {len(repeated)} id{'s' * (len(repeated) > 1)} more than once"
            f" (positions {shown}); ids must be unique"
        )
    return listed


def _can_travel(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def default_split(ids: Iterable[str]) -> tuple[set[str], set[str]]:
    """Split ids 80/20 by a hash of each id: the same everywhere, and stable when ids are added."""
    train: set[str] = set()
    test: set[str] = set()
    for each in ids:
        digest = hashlib.sha256(b"heterofed split\0" + each.encode()).digest()
        is_test = int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64
        (test if is_test else train).add(each)
    return train, test


def check_split(split: object) -> tuple[list[str], list[str]]:
    """Check what `split_dataset` returned; gives sorted train and test ids.

    Raises:
        IdError: not a pair of collections of unique strings.
        EmptySplitError: no train ids, or no test ids.
    """
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise IdError(
            "split_dataset must return two sets, (train ids, test ids), not a"
            f" {type(split).__name__}"
        )
    parts = []
    for part, name in zip(split, ("train", "test"), strict=True):
        part = strings(part, f"split_dataset: the {name} ids")  # noqa: PLW2901
        if not all(map(_can_travel, part)):
            raise IdError(f"split_dataset: one of the {name} ids holds a lone surrogate")
        if len(set(part)) != len(part):
            raise IdError(f"split_dataset returned {name} ids more than once")
        if not part:
            raise EmptySplitError(
                f"split_dataset left no {name} ids; give every party the same split with both"
            )
        parts.append(sorted(part))
    return parts[0], parts[1]


def pack_parts(ids: Iterable[str], train: Iterable[str], test: Iterable[str]) -> bytes:
    """In which part each of some ids is, in their order: two bits for each, 1 for a train id, 2 for
    a test id, the lowest bits of a byte first.
    """
    trained, tested = set(train), set(test)
    bits = [(each in trained, each in tested) for each in ids]
    return np.packbits(np.asarray(bits, dtype=bool).ravel(), bitorder="little").tobytes()


def unpack_parts(ids: Sequence[str], packed: bytes) -> tuple[list[str], list[str]]:
    """Train and test ids of what `pack_parts` gave for the same ids."""
    raw = np.frombuffer(packed, dtype=np.uint8)
    bits = np.unpackbits(raw, count=2 * len(ids), bitorder="little").astype(bool)
    train, test = bits[::2], bits[1::2]
    return list(compress(ids, train)), list(compress(ids, test))


def keyed_digest(secret: bytes, purpose: str, ids: Sequence[str]) -> bytes:
    """HMAC-SHA256 over ids in their order, 32 bytes.

    They come in groups of 4096, the last one smaller: how many they are and the code points of each
    (8 bytes, big-endian), then their text in UTF-8.

    Keyed, because ids are guessable: without `secret` nobody can test a guess.
    """
    mac = hmac.new(secret, purpose.encode() + b"\0", hashlib.sha256)
    for start in range(0, len(ids), DIGESTED_AT_ONCE):
        some = ids[start : start + DIGESTED_AT_ONCE]
        mac.update(struct.pack(f">{1 + len(some)}Q", len(some), *map(len, some)))
        mac.update("".join(some).encode())
    return mac.digest()


def round_order(ids: Sequence[str], *, seed: int, round_number: int, shuffle: bool) -> list[str]:
    """The order of this round's train ids: as they are, or the round's agreed shuffle."""
    order = list(ids)
    if shuffle:
        random.Random(stream_seed(seed, "shuffle", round_number)).shuffle(order)
    return order


def stream_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one random stream of the task, the same in every process.

    Args:
        seed: the plan's seed.
        path: names the stream, such as (feature key, hook, round, batch).
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
