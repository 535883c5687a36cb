"""The staleness that the Host keeps, announces, and takes back where it costs accuracy."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from heterofed.compute.pace import MOST_CHOSEN, PROBE_BATCHES, Pace
from heterofed.hetero_nn.train.pacing import Pacing
from heterofed.protocol.plan import Plan
from heterofed.runs.state import RunState


class Host:
    """A run whose clock stands; each batch arrives when a test says so."""

    def __init__(self, staleness: Any = "auto") -> None:
        plan = Plan(host="bank", collaborators=("shop",), max_staleness=staleness)
        counts = SimpleNamespace(waits={"shop": 0.0})
        self.now = 0.0
        party = SimpleNamespace(clock=lambda: self.now, counts=counts)
        self.run: Any = SimpleNamespace(plan=plan, party=party, round=1, state=RunState())
        self.pacing = Pacing(self.run)  # type: ignore[arg-type]

    @property
    def kept(self) -> Any:
        return self.run.state.kept

    def leg(self, first: int, batches: int, *, trip: float = 0.05) -> list[int]:
        """Train a part of a round, and return the staleness of each batch."""
        steps, used = self.pacing.begin(first), list[int]()
        for number in range(first, first + batches):
            took = max(0.006, (trip + 0.011) / (steps + 1))
            self.now += took
            self.run.party.counts.waits["shop"] += took - 0.006
            used.append(steps)
            self.pacing.note(SimpleNamespace(theirs=[SimpleNamespace(work=0.005)]))  # type: ignore[arg-type]
            announced = self.pacing.before(number + 1)
            steps = steps if announced is None else announced
        return used


def test_what_the_plan_says_stays() -> None:
    host = Host(3)
    assert host.leg(0, 20) == [3] * 20
    host.pacing.end_round([9.0] * 20)
    assert host.leg(0, 20) == [3] * 20
    assert host.kept == RunState().kept


def test_the_first_batches_are_exact_also_over_parts_of_a_round() -> None:
    host, used = Host(), list[int]()
    for first in range(0, 16, 4):
        used += host.leg(first, 4)
        host.pacing.end(first + 4)
    assert used == [0] * PROBE_BATCHES + [12] * 8


def test_a_round_that_is_repeated_measures_again_from_its_checkpoint() -> None:
    host = Host()
    before = copy.deepcopy(host.kept)
    host.leg(0, 12)
    host.run.state.kept = before
    assert host.leg(0, 12, trip=0.01) == [0] * PROBE_BATCHES + [4] * 4


def test_a_round_with_few_batches_chooses_at_its_end() -> None:
    host = Host()
    host.leg(0, 5)
    host.pacing.end_round([])
    assert (host.kept.staleness, host.kept.measured_from) == (12, None)
    assert host.leg(0, 5) == [12] * 5


def test_one_batch_measures_nothing() -> None:
    host = Host()
    for _ in range(3):
        assert host.leg(0, 1) == [0]
        host.pacing.end_round([0.5])
    assert host.kept.measured_from == 0


def test_a_measurement_within_a_round_ends_where_a_checkpoint_expects_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A party that goes on from a checkpoint has to begin and end it at the same batches."""
    host = Host()
    host.leg(0, 100)
    monkeypatch.setattr(Pace, "review", lambda _, steps: (steps, True))
    host.pacing.end(100)
    assert host.kept.measured_from == 100
    whole = [host.leg(100, 6), host.leg(106, 6)]
    again = Host()
    again.run.state.kept = copy.deepcopy(host.kept)
    again.kept.measured_from = 100
    assert whole == [[0] * 6, [0, 0] + [12] * 4]
    assert again.leg(106, 6) == whole[1]


def test_a_record_says_what_was_chosen() -> None:
    host = Host()
    host.run.state.foretold_staleness = 7
    assert host.leg(0, 12) == [0] * PROBE_BATCHES + [7] * 4


GOOD, BETTER, WORSE = ([each, each + 0.1] * 50 for each in (0.5, 0.4, 0.9))


def test_a_loss_that_gets_worse_halves_the_staleness_until_it_is_exact(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host, used = Host(), list[int]()
    for losses in (GOOD, BETTER, WORSE, WORSE, WORSE, WORSE, GOOD):
        used.append(host.leg(0, 100)[-1])
        host.pacing.end_round(losses)
    assert used == [12, 12, 12, 6, 3, 1, 0]
    assert host.kept.measured_from is None
    assert "max_staleness is at most 6 from now on" in caplog.text
    assert host.leg(0, 100) == [0] * 100


def test_a_round_that_recovers_lowers_nothing_more() -> None:
    host = Host()
    for losses in (GOOD, [each + 9 for each in WORSE], WORSE, [each + 0.1 for each in GOOD]):
        host.leg(0, 100)
        host.pacing.end_round(losses)
    assert host.kept.most_staleness == 6


def test_a_measurement_does_not_undo_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    for losses in (GOOD, WORSE):
        host.leg(0, 100)
        host.pacing.end_round(losses)
    monkeypatch.setattr(Pace, "review", lambda _, steps: (steps, True))
    host.leg(0, 100)
    host.pacing.end_round(GOOD)
    assert host.leg(0, 100) == [0] * PROBE_BATCHES + [6] * 92


def test_without_losses_or_staleness_there_is_nothing_to_take_back() -> None:
    for host, losses in ((Host(), []), (Host(0), WORSE)):
        for each in (GOOD, losses):
            host.leg(0, 100)
            host.pacing.end_round(each)
        assert host.kept.most_staleness == MOST_CHOSEN
