"""Parties of one machine share its cores, unless somebody has said how many threads to use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from heterofed.compute import autograd
from heterofed.compute.autograd import sharing_cores


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of which torch uses all, as it does where nobody says anything."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(autograd, "_THREADS_AT_IMPORT", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("parties", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_each_party_gets_its_part(parties: int, threads: int) -> None:
    with sharing_cores(parties):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4


def test_the_variable_of_openmp_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with sharing_cores(2):
        assert torch.get_num_threads() == 4


def test_what_was_set_in_torch_stands() -> None:
    torch.set_num_threads(3)
    with sharing_cores(2):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_few_threads_of_many_cores_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with sharing_cores(2):
        assert torch.get_num_threads() == 4
