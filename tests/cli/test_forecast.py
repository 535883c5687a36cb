"""What `heterofed doctor` forecasts, against a run by the same parties on the same machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median

import pytest
from msgspec import structs

from benchmarks.forecast import compared
from heterofed.cli.forecast import psi_forecast, train_forecast
from heterofed.protocol.codec import encode
from heterofed.protocol.messages import Facts, LinkFacts, ProbeBegin, ProbeResult, Work
from heterofed.protocol.plan import MAX_PEER_IDS
from heterofed.reporting.units import bytes_shown, seconds_shown

KINDS = ("forecast", "truth")
MOST = 0.3
TRIES = 3
QUIET = 1.0
"""The load of the machine up to which seconds are judged: the probe of one moment says nothing of
the next where other work comes and goes. `python -m benchmarks.forecast` measures at any time.
"""


def spread(values: list[float]) -> float:
    return max(values) / min(values) - 1


HUGE = Work(MAX_PEER_IDS, MAX_PEER_IDS, 10**6, 1 << 20, 1 << 5, 1 << 5)
SLOW = Facts(
    "", "", "", 1, 0, 0, 0, MAX_PEER_IDS, 1e6, 1e6, 1e6, 1e6, 1e6, busy=1 << 16, machine=bytes(16)
)
FAST = structs.replace(SLOW, ids=1, ask=0.0, sign=0.0, tag=0.0, step=0.0, start=0.0, busy=0.0)


@pytest.mark.parametrize("work", [HUGE, Work(1, 1, 0, 1, 1, 1), Work(1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("shop", [SLOW, FAST])
@pytest.mark.parametrize("link", [LinkFacts(1e6, 1.0, 1.0, 1e11), LinkFacts(0.0, 1e15, 1e15, 0.0)])
def test_a_forecast_of_whatever_a_peer_says_can_be_shown(
    work: Work, shop: Facts, link: LinkFacts
) -> None:
    encode(ProbeBegin(work))  # so these are the ends of what can be said
    encode(ProbeResult(shop, link))
    for forecast in (psi_forecast, train_forecast):
        phase = forecast(work, FAST, shop, link)
        assert seconds_shown(phase.seconds)
        assert bytes_shown(phase.to_host)
        assert bytes_shown(phase.from_host)


@pytest.mark.long
@pytest.mark.parametrize(("protocol", "ids"), [("ecdh", 20_000), ("rsa", 3_000)])
def test_a_forecast_is_within_30_percent_of_the_truth(
    protocol: str, ids: int, tmp_path: Path
) -> None:
    """Where the same work takes another time in each run, no forecast of it can be judged."""
    is_quiet = os.getloadavg()[0] <= QUIET
    work = {"rounds": 20, "batch_size": 256, "width": 32, "columns": 50}
    found: list[dict[str, float]] = []
    for attempt in range(TRIES if is_quiet else 1):
        (folder := tmp_path / str(attempt)).mkdir()
        found.append(compared(folder, argparse.Namespace(protocol=protocol, ids=ids, **work)))
    judged = {}
    for figure in ("psi_bytes", "train_bytes", "psi_seconds", "train_seconds"):
        forecasts, truths = ([each[f"{figure}_{kind}"] for each in found] for kind in KINDS)
        is_steady = spread(truths) <= MOST and spread(forecasts) <= MOST
        if figure.endswith("bytes") or (is_quiet and is_steady):
            judged[figure] = median(forecasts) / median(truths) - 1
    assert all(abs(each) <= MOST for each in judged.values()), found
    if len(judged) < 4:
        pytest.skip(f"other work on this machine: only {', '.join(judged)} could be judged")
