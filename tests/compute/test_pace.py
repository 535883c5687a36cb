"""The choice of the staleness from times and losses, on a pipeline that is computed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from heterofed.compute.pace import (
    MOST_CHOSEN,
    MOST_COST,
    PROBE_BATCHES,
    Pace,
    has_got_worse,
    loss_of,
)


@dataclass(frozen=True)
class Pipeline:
    """Two parties and a link.

    Attributes:
        trip: the seconds to the other party and back.
        host, other: the seconds of work on a batch.
        line: the seconds that the features of a batch occupy the line, which nobody counts.
    """

    trip: float
    host: float = 0.006
    other: float = 0.005
    line: float = 0.0

    def arrivals(self, steps: list[int], start: float) -> list[float]:
        """When the Host takes each batch, if so many may be in flight beside it."""
        taken: list[float] = []
        back: list[float] = []
        sent = out = done = start
        for number, ahead in enumerate(steps):
            waits_for = number - 1 - ahead
            sent = max(sent, back[waits_for] if waits_for >= 0 else start) + self.other
            out = max(out, sent) + self.line
            taken.append(max(out + self.trip / 2, done))
            done = taken[-1] + self.host
            back.append(done + self.trip / 2)
        return taken


class Course:
    """The rounds of a run, in which the Host does what a `Pace` says."""

    def __init__(self) -> None:
        self.pace, self.steps, self.measures = Pace(), 0, True
        self.now = self.busy = self.exact = 0.0

    def round(self, pipeline: Pipeline, batches: int = 400) -> int:
        """Train a round, and return the staleness at its end."""
        exact = PROBE_BATCHES if self.measures else 0
        if self.measures:
            self.pace.measure()
        self.pace.begin(0 if exact else self.steps, measures=bool(exact))
        begun = self.now
        for number, now in enumerate(pipeline.arrivals([0] * exact, begun)):
            self._note(now, pipeline)
            if number + 1 == exact:
                self.steps = self.pace.choose()
        self.exact += self.now - begun
        for now in pipeline.arrivals([self.steps] * (batches - exact), self.now):
            self._note(now, pipeline)
        used = self.steps
        self.steps, self.measures = self.pace.review(self.steps)
        return used

    def _note(self, now: float, pipeline: Pipeline) -> None:
        self.pace.note(now, self.busy, pipeline.other)
        self.now, self.busy = now, self.busy + pipeline.host


NEAR, FAR = Pipeline(0.0002), Pipeline(0.05)


@pytest.mark.parametrize(
    ("pipeline", "chosen"),
    [
        (NEAR, 2),  # one machine: the other one's work hides behind ours
        (FAR, 12),
        (Pipeline(0.5), MOST_CHOSEN),
        (Pipeline(0.02, host=0.02, other=0.001), 2),
    ],
)
def test_the_choice_hides_the_round_trip(pipeline: Pipeline, chosen: int) -> None:
    course = Course()
    for _ in range(5):
        assert course.round(pipeline) == chosen


def test_one_outlier_decides_nothing() -> None:
    pace = Pace()
    pace.measure()
    for number in range(PROBE_BATCHES):
        pace.note(number * 0.056 + 5.0 * (number >= 3), number * 0.006, 0.005)
    assert pace.choose() == 11


def test_nothing_measured_chooses_the_exact_mode() -> None:
    assert not Pace().has_measured
    assert Pace().choose() == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [(NEAR, FAR), (FAR, Pipeline(0.2)), (FAR, replace(FAR, host=0.05)), (FAR, NEAR)],
    ids=["slower", "far slower", "more work", "faster"],
)
def test_a_change_is_noticed(before: Pipeline, after: Pipeline) -> None:
    course, expected = Course(), Course()
    for _ in range(3):
        course.round(before)
    expected.round(after)
    wanted = expected.round(after)
    for _ in range(60):
        found = course.round(after)
    assert found == wanted


def test_a_slower_link_is_measured_at_once() -> None:
    course = Course()
    for _ in range(2):
        course.round(NEAR)
    course.round(FAR)
    assert course.round(FAR) == 12


def test_measurements_of_a_steady_link_take_little_time() -> None:
    course = Course()
    for _ in range(300):
        course.round(FAR, 100)
    first = PROBE_BATCHES * (0.05 + 0.011)
    assert first < course.exact < first + 2 * MOST_COST * course.now


def test_a_narrow_line_is_not_answered_with_more_staleness() -> None:
    course = Course()
    narrow = Pipeline(0.05, line=0.02)
    assert course.round(narrow) > 8
    for _ in range(4):
        assert course.round(narrow) == 5  # 6 batches of 20 ms fill 81 ms, with some to spare


def test_a_machine_that_got_slower_after_the_measurement_is_no_narrow_line() -> None:
    course = Course()
    course.pace.measure()
    course.pace.begin(0, measures=True)
    for now in FAR.arrivals([0] * PROBE_BATCHES, 0.0):
        course._note(now, FAR)
    course.steps, course.measures = course.pace.choose(), False
    slow = Pipeline(0.05, host=0.3, other=0.1)
    course.round(slow)
    assert (course.steps, course.measures) == (12, True)
    assert course.round(slow) == 1


def test_a_measurement_before_a_restart_is_made_again() -> None:
    course = Course()
    course.steps, course.measures = 9, False
    course.round(FAR)
    assert (course.steps, course.measures) == (9, True)


def test_few_batches_say_nothing() -> None:
    course = Course()
    course.round(FAR)
    for _ in range(5):
        course.round(Pipeline(0.5), batches=15)
        assert (course.steps, course.measures) == (12, False)


def losses(mean: float, count: int = 200) -> list[float]:
    draw = random.Random(round(mean * 1e6))
    return [draw.gauss(mean, 0.2) for _ in range(count)]


def test_a_loss_gets_worse_only_by_more_than_chance() -> None:
    best = loss_of(losses(0.5))
    assert not has_got_worse(losses(0.4), best)
    assert not has_got_worse(losses(0.51), best)
    assert has_got_worse(losses(0.6), best)
    assert has_got_worse([0.1, float("nan")], best)
    assert not has_got_worse([0.9], best)  # one batch has no spread


@pytest.mark.parametrize("growth", [1.05, 1.3, 3.0])
def test_a_loss_that_grows_within_a_round_is_worse(growth: float) -> None:
    """Its batches differ by as much as their mean."""
    assert has_got_worse([0.5 * growth**number for number in range(200)], loss_of(losses(0.5)))


def test_one_odd_batch_is_chance() -> None:
    best = loss_of(losses(0.5))
    assert not has_got_worse([*losses(0.5)[:-1], 1000.0], best)
