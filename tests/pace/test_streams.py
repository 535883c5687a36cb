"""Random streams within a phase: seeded each, restored once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from heterofed.streams import generators_kept, random_stream


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


def test_all_bits_of_a_seed_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 bits one could try all, and find the initial weights of a party."""

    def drawn(start: int) -> list[float]:
        monkeypatch.setattr("heterofed.streams.stream_seed", lambda *_: start)
        with random_stream(7, "a"):
            assert torch.initial_seed() == start
            weights = torch.nn.Linear(400, 50).weight.detach()
            assert weights.abs().max() <= 0.05
            assert weights.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)
            return [torch.rand(()).item(), np.random.rand(), random.random()]

    low = drawn(5)
    assert low == drawn(5)
    assert not set(low) & set(drawn(5 + 2**40))
