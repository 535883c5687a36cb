"""Measures how fast this machine does the work of a task, on made-up ids and rows.

torch is imported only for the training step.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psi
from heterofed.protocol.messages import Work
from heterofed.protocol.plan import PSIProtocol

if TYPE_CHECKING:
    from heterofed.cli.made_up import Timed

MEASURED_IDS = {"ecdh": 5_000, "rsa": 800}
"""The numbers of ids that take a second or less."""


_ALONE = threading.Lock()
"""Held by the one measurement that may run: others would disturb it, and its silence is global."""


@dataclass(frozen=True, slots=True)
class PsiCosts:
    """The costs of an intersection.

    Attributes:
        ask: the seconds of blinding and unblinding one id.
        sign: the seconds of signing one.
        tag: the seconds of computing one own tag.
        start: the seconds of making and checking the key.
        busy: how many cores were busy on average.
    """

    ask: float
    sign: float
    tag: float
    start: float
    busy: float


def psi_costs(protocol: PSIProtocol) -> PsiCosts:
    """Measure an intersection of both roles in this process, on all cores.

    Raises:
        psi.LibraryError: a library that the protocol needs is missing.
    """
    count = MEASURED_IDS[protocol]
    ids = [f"{number:012}" for number in range(count)]
    run = psi.domain("probe", secrets.token_hex(16))
    ask, sign, tag = _Watch(), _Watch(), _Watch()
    began, computed = time.perf_counter(), time.process_time()
    with psi.signer(protocol, ids, domain=run) as signing:
        key = signing.public_key()
        with psi.requester(protocol, ids, key, count, domain=run) as asking:
            signing.begin(count)
            chunks = asking.blinded()
            while True:
                with ask:
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                with sign:
                    signed = signing.sign(chunk)
                with ask:
                    asking.unblind(signed)
            with tag:
                for _ in signing.tags():
                    pass
            took, computed = time.perf_counter() - began, time.process_time() - computed
    each = (ask.seconds / count, sign.seconds / count, tag.seconds / count)
    return PsiCosts(*each, took - count * sum(each), computed / took)


def step_seconds(work: Work) -> float:
    """Return the seconds of one training step of both halves, without any link between them.

    The models are two dense layers at the Collaborator and one at the Host. Larger ones take
    longer.
    """
    from heterofed.cli.made_up import timed_steps

    with _ALONE, _silent(), ThreadPoolExecutor(1) as aside:  # off the main thread nothing is drawn
        timed: Timed = aside.submit(timed_steps, work).result()
    return timed.seconds / timed.batches


class _Watch:
    """Adds up the seconds within its blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


@contextmanager
def _silent() -> Iterator[None]:
    """Show no lines of the tasks that are only measured."""
    logger = logging.getLogger("heterofed")
    level, nobody = logger.level, logging.NullHandler()
    logger.addHandler(nobody)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(nobody)
