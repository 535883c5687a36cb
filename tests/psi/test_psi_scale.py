"""The cost model of large intersections fits the measured runs, and forecasts by its arithmetic."""

from __future__ import annotations

import sys

import pytest

from benchmarks import psi_scale
from benchmarks.psi_scale import COORDINATION, RUNS, cpu_us, disk_of, forecast, memory_of
from psi.ecdh.group import POINT_BYTES
from psi.hashing import TAG_BYTES
from psi.storage import spill


def test_the_model_fits_what_was_measured() -> None:
    for run in RUNS:
        assert max(run.requester_us, run.signer_us) == pytest.approx(cpu_us(), rel=0.15)
        assert run.memory == pytest.approx(memory_of(run.ids), rel=0.15)


def test_its_sizes_are_those_of_the_protocol() -> None:
    assert (psi_scale.POINT, psi_scale.TAG) == (POINT_BYTES, TAG_BYTES)
    assert psi_scale.BUCKET_IDS == spill.BUCKET_IDS
    assert spill.Scratch().buckets(10**10) == psi_scale.MOST_BUCKETS


def test_a_slow_link_or_few_cores_decide() -> None:
    slow = forecast(10_000_000, 32, 1)
    assert slow.seconds == slow.sending == pytest.approx(10_000_000 * 48 * 8 / 1e6)
    alone = forecast(1_000_000, 1, 1e6)
    assert alone.seconds == alone.computing == pytest.approx(cpu_us())
    endless = forecast(1_000_000, 10**9, 1e6)
    assert endless.computing == pytest.approx(COORDINATION, rel=1e-3)


def test_small_sets_need_no_disk_and_large_ones_little_memory() -> None:
    assert disk_of(1_000_000) == 0
    assert disk_of(10_000_000) == 850_000_000
    assert memory_of(10_000_000) < 1.2e9


def test_the_command_prints_a_forecast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["psi_scale", "--ids", "1000", "--mbit", "10"])
    psi_scale.main()
    assert "computing  0 s" in capsys.readouterr().out
