"""Random streams within a phase: seeded each, restored once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from numpy.random import mtrand

from heterofed.compute import rng
from heterofed.compute.rng import SEED_BYTES, RandomState, start_generators
from heterofed.compute.streams import generators_kept, random_stream


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()


def reseed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def test_generators_go_on_after_a_phase_as_if_nothing_had_been() -> None:
    reseed()
    expected = drawn()
    reseed()
    with generators_kept():
        for batch in range(3):
            with random_stream(7, "a", batch):
                drawn()
    assert drawn() == expected


def test_streams_draw_the_same_within_a_phase_as_outside() -> None:
    with random_stream(7, "a", 0):
        expected = drawn()
    with generators_kept():
        drawn()
        with random_stream(7, "a", 0):
            assert drawn() == expected


def test_a_stream_within_a_stream_disturbs_nothing() -> None:
    with random_stream(7, "a", 0):
        expected = drawn(), drawn()
    with generators_kept(), random_stream(7, "a", 0):
        first = drawn()
        with random_stream(7, "b", 0):
            drawn()
        assert (first, drawn()) == expected


def test_generators_are_restored_after_an_error() -> None:
    reseed()
    expected = drawn()
    reseed()
    with pytest.raises(KeyError), generators_kept(), random_stream(7, "a", 0):
        raise KeyError
    assert drawn() == expected
    reseed()
    with random_stream(7, "a", 0):
        drawn()
    assert drawn() == expected


def started(seed: bytes) -> tuple[float, float, float]:
    before = RandomState.now()
    try:
        start_generators(seed)
        return drawn()
    finally:
        before.restore()


@pytest.mark.parametrize(
    ("place", "whose"), [(0, 2), (7, 2), (8 + 4 * 500, 0), (8 + 4 * (624 + 500), 1)]
)
def test_whole_states_count(place: int, whose: int) -> None:
    """Of 32 bits one could try all, and find the initial weights of a party."""
    one = random.Random(1).randbytes(SEED_BYTES)
    other = one[:place] + bytes([one[place] ^ 2]) + one[place + 1 :]
    start_generators(one)
    many = [(float(torch.rand(1)), np.random.rand(), random.random()) for _ in range(700)]
    start_generators(other)
    others = [(float(torch.rand(1)), np.random.rand(), random.random()) for _ in range(700)]
    for generator in range(3):
        numbers = [[each[generator] for each in run] for run in (many, others)]
        assert (numbers[0] != numbers[1]) == (generator == whose)


def test_a_stream_gives_even_numbers() -> None:
    with random_stream(7, "a"):
        weights = torch.nn.Linear(400, 50).weight.detach()
        numbers = np.random.rand(20_000)
    assert weights.abs().max() <= 0.05
    assert weights.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert numbers.std() == pytest.approx(12**-0.5, rel=0.02)


def test_numpy_starts_alike_however_its_words_are_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.Random(2).randbytes(SEED_BYTES)
    assert rng._NUMPY_WORDS is not None
    np.random.randn()  # has another half
    start_generators(seed)
    in_place = [np.random.randn(), np.random.rand()]
    monkeypatch.setattr(rng, "_NUMPY_WORDS", None)
    np.random.randn()
    start_generators(seed)
    assert in_place == [np.random.randn(), np.random.rand()]


def test_a_generator_of_the_users_is_left_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = mtrand.get_bit_generator()
    seed = random.Random(3).randbytes(SEED_BYTES)
    expected = started(seed)
    try:
        mtrand.set_bit_generator(np.random.MT19937(5))
        assert started(seed) == expected
    finally:
        mtrand.set_bit_generator(ours)
