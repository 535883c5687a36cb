"""Decides, batch by batch, whether a mean leak exceeds its limit: a sequential test by betting.

Each batch gives some measurements between 0 and 1, one for each attack. The hypothesis is that none
of them exceeds the limit m on average: E[X_t | the past] <= m for each attack. A bet on the
opposite multiplies its wealth by 1 + c (X_t / m - 1) after each batch, for a fixed 0 < c < 1. Under
the hypothesis the wealth is a nonnegative supermartingale, so the probability that it ever reaches
1 / alpha times its beginning is at most alpha (Ville 1939; Waudby-Smith and Ramdas, "Estimating
means of bounded random variables by betting", JRSS B 2024). A mean of such wealths, over bets of
different sizes and over attacks, is one too. This holds for all batch sizes and distributions, and
however often it is looked at: there is no approximation.

A leak may begin late, and old batches without a leak must not outweigh it. So new bets begin every
`EVERY` measurements, and only those of the last `WINDOWS` beginnings count: a sliding window of 896
to 1,024 measurements. The first batches after a beginning are measured in parts, each of which is a
measurement, so that a large leak is found after a few batches. The j-th beginning (from 0) gets the
share 1 / ((j + 1) (j + 2)) of alpha. The shares add up to 1, and so the probability of a false
alarm is at most alpha over all batches of all runs of a task together (a mixture over change
points; compare Shin, Ramdas and Rinaldo, "E-detectors", 2024, whose detectors bound the frequency
of alarms instead).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

ALPHA = 0.001
"""The highest probability that a task is ever ended, or a defence raised, though no attack exceeds
the limit on average, for each measure and each recipient."""

BETS = (0.05, 0.1, 0.2, 0.4, 0.8, 0.99)
"""The sizes of the bets: large ones find large leaks soon, small ones find small leaks at all."""

EVERY = 128
WINDOWS = 8

DIGEST_BYTES = 8
"""The length of the digests by which batches are known."""

PARTS, IN_PARTS = 4, 64
"""The number of parts in which the first batches are measured, and of these measurements."""


class Found(msgspec.Struct, frozen=True):
    """A leak that exceeds its limit.

    Attributes:
        attack: the attack with the strongest evidence.
        mean: the mean of its measurements in the window with the strongest evidence.
        count: the number of these measurements.
    """

    attack: str
    mean: float
    count: int


class _Attack(msgspec.Struct):
    """The bets on one attack: the logarithms of their wealths, and its measurements so far."""

    wealths: list[float]
    total: float = 0.0
    count: int = 0


class _Window(msgspec.Struct):
    """The bets that began at one batch."""

    share: float
    attacks: dict[str, _Attack]

    def evidence(self, attack: _Attack) -> float:
        """Return the logarithm of what an attack contributes."""
        scale = math.log(self.share / (len(self.attacks) * len(BETS)))
        return scale + _log_sum(attack.wealths)


class _State(msgspec.Struct):
    count: int = 0
    begun: int = 0
    windows: list[_Window] = []
    seen: bytes = b""


class LeakTest:
    """The test of one limit for one recipient.

    Args:
        limit: the limit of the mean, between 0 and 1.
        kept: the state of an earlier run, as `state` gave it.
    """

    def __init__(self, limit: float, kept: bytes | None = None) -> None:
        self._limit = limit
        self._kept = msgspec.msgpack.decode(kept, type=_State) if kept else _State()

    @property
    def state(self) -> bytes:
        """The state, from which another process goes on."""
        return msgspec.msgpack.encode(self._kept)

    @property
    def evidence(self) -> float:
        """The logarithm of the wealth in units of the beginning; an alarm is at -log(`ALPHA`)."""
        return _log_sum([each.evidence(of) for each in self._kept.windows for of in _attacks(each)])

    @property
    def parts(self) -> int:
        """The number of parts in which the next batch is measured, if it has enough rows."""
        return PARTS if self._kept.count % EVERY < IN_PARTS else 1

    def is_new(self, batch: bytes) -> bool:
        """Note a batch that is about to be added, and return whether it was not noted before.

        A batch that is sent again, because a run goes on from a checkpoint before it, says nothing
        new of the mean. Those of the last measurements are known, so that no evidence has one
        twice.

        Args:
            batch: what is different for different batches.
        """
        digest = blake2b(batch, digest_size=DIGEST_BYTES).digest()
        seen = self._kept.seen
        known = {seen[at : at + DIGEST_BYTES] for at in range(0, len(seen), DIGEST_BYTES)}
        if digest in known:
            return False
        self._kept.seen = (seen + digest)[-DIGEST_BYTES * EVERY * WINDOWS :]
        return True

    def add(self, measured: Mapping[str, float]) -> None:
        """Take one measurement of each attack; each lies between 0 and 1."""
        kept = self._kept
        if kept.count % EVERY == 0 or not kept.windows:
            self._begin(list(measured))
        kept.count += 1
        for window in kept.windows:
            for name, value in measured.items():
                if (attack := window.attacks.get(name)) is not None:
                    self._bet(attack, value)

    def found(self) -> Found | None:
        """Return the leak that exceeds the limit, or None as long as there is no alarm."""
        if self.evidence < -math.log(ALPHA):
            return None
        strongest = max(
            (
                (window.evidence(of), name, of)
                for window in self._kept.windows
                for name, of in window.attacks.items()
            ),
            key=lambda each: each[0],
        )
        _, name, of = strongest
        return Found(name, of.total / max(1, of.count), of.count)

    def begin_anew(self) -> None:
        """Forget the measurements, because a raised defence has changed what they are of."""
        self._kept.windows.clear()

    def _begin(self, attacks: list[str]) -> None:
        kept = self._kept
        share = 1 / ((kept.begun + 1) * (kept.begun + 2))
        kept.begun += 1
        fresh = {each: _Attack([0.0] * len(BETS)) for each in attacks}
        kept.windows = [*kept.windows[1 - WINDOWS :], _Window(share, fresh)]

    def _bet(self, attack: _Attack, value: float) -> None:
        value = min(max(value, 0.0), 1.0)
        gain = value / self._limit - 1
        attack.wealths = [
            wealth + math.log1p(size * gain)
            for wealth, size in zip(attack.wealths, BETS, strict=True)
        ]
        attack.total += value
        attack.count += 1


def _attacks(window: _Window) -> list[_Attack]:
    return list(window.attacks.values())


def _log_sum(logs: list[float]) -> float:
    """Return log(sum(exp(x))) without overflow; -inf for no logarithms."""
    most = max(logs, default=-math.inf)
    if most == -math.inf:
        return most
    return most + math.log(math.fsum(math.exp(each - most) for each in logs))
