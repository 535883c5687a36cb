"""Renders the cost model of large intersections, which is in `benchmarks.psi_scale`."""

from __future__ import annotations

from benchmarks.psi_scale import RUNS, cpu_us, forecast, memory_of
from docs.generator.markdown import table

PLACES = ((2, 100), (8, 1000), (32, 100), (32, 1000))
"""Cores of each party and Mbit/s of the link."""


def runs() -> str:
    """The measured runs, and what the model says of them."""
    head = [
        "ids of each party",
        "CPU of the requester",
        "CPU of the signer",
        "memory",
        "by the model",
    ]
    rows = [
        [
            f"{run.ids:,}",
            f"{run.requester_us:.0f} us per id",
            f"{run.signer_us:.0f} us per id",
            f"{run.memory / 1e6:.0f} MB",
            f"{cpu_us():.0f} us per id, {memory_of(run.ids) / 1e6:.0f} MB",
        ]
        for run in RUNS
    ]
    return table(head, iter(rows))


def forecasts() -> str:
    """What the model says of larger sets."""
    head = ["ids of each party", "cores of each", "link", "computing", "sending", "memory", "disk"]
    rows = []
    for ids in (10_000_000, 100_000_000, 1_000_000_000):
        for cores, mbit in PLACES:
            found = forecast(ids, cores, mbit)
            rows.append(
                [
                    f"{ids:,}",
                    f"{cores}",
                    f"{mbit:,} Mbit/s",
                    _time(found.computing),
                    _time(found.sending),
                    f"{found.memory / 1e9:.1f} GB",
                    f"{found.disk / 1e9:.1f} GB",
                ]
            )
    return table(head, iter(rows))


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
