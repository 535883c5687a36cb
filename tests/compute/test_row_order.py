"""Rows of a batch are of the same ids at all parties, or the task ends before it steps on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from heterofed import Batch, TaskAborted
from heterofed.errors import FeatureError, RowOrderError
from tests.e2e.tiny import BATCH, TinyCollaborator, TinyHost, rows, run

pytestmark = pytest.mark.usefixtures("home")


def batches(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH))


class Host(TinyHost):
    """Says which ids its rows are of; counts its steps."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **settings)
        self.steps = 0

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in batches(train_ids):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield Batch(feature_model(rows(ids, 2, 0)), labels, ids)

    def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
        self.steps += 1
        return super().train_a_batch(feature_projection, labels)


class Collaborator(TinyCollaborator):
    """Says which ids its rows are of; `mangle` stands for what goes wrong in loading."""

    def mangle(self, number: int, ids: list[str]) -> list[str]:
        return ids

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for number, asked in enumerate(batches(train_ids)):
            ids = self.mangle(number, asked)
            yield Batch(feature_model(rows(ids, 3, 7)), ids=ids)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_rows_in_order_pass_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host, _ = run(Host(tmp_path, shuffle=True), Collaborator(tmp_path))
    assert host.rounds == 2
    assert warnings_of(caplog) == []


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["iterate_train_feature", "iterate_test_feature"])
def test_one_swapped_row_ends_the_task(hook: str, tmp_path: Path) -> None:
    class Swapping(Collaborator):
        def mangle(self, number: int, ids: list[str]) -> list[str]:
            now = "iterate_train_feature" if self.training else "iterate_test_feature"
            if self.current_round != (2 if hook == "iterate_train_feature" else 1) or now != hook:
                return ids
            last = {"iterate_train_feature": 1, "iterate_test_feature": 0}[hook]
            return ids if number != last else [*ids[:2], ids[3], ids[2], *ids[4:]]

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            self.training = feature_model.training
            return super().iterate_train_feature(feature_model, train_ids)

    host = Host(tmp_path)
    mine, theirs = run(host, Swapping(tmp_path))
    assert type(mine) is RowOrderError
    assert isinstance(theirs, RowOrderError)
    assert isinstance(theirs, TaskAborted)
    place = (2, 1) if hook == "iterate_train_feature" else (1, 0)
    for error in (mine, theirs):
        assert (error.party, error.round or place[0], error.batch) == ("bob", *place)
    assert f"batch {place[1]} of round {place[0]}" in str(mine)
    assert "id-" not in str(mine) + str(theirs)
    a_round = 3  # batches
    assert host.steps == (a_round + 1 if hook == "iterate_train_feature" else a_round)


def test_parties_that_shuffle_on_their_own(tmp_path: Path) -> None:
    class Shuffling(Collaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            order = torch.randperm(
                len(train_ids), generator=torch.Generator().manual_seed(5)
            ).tolist()
            yield from super().iterate_train_feature(
                feature_model, [train_ids[each] for each in order]
            )

    host = Host(tmp_path)
    mine, _ = run(host, Shuffling(tmp_path))
    assert (type(mine), mine.batch, host.steps) == (RowOrderError, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("ids", [["id-001"], [1] * BATCH, "x" * BATCH, 5])
def test_ids_that_are_not_one_string_per_row(ids: Any, tmp_path: Path) -> None:
    class Wrong(Collaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for each in batches(train_ids):
                yield Batch(feature_model(rows(each, 3, 7)), ids=ids)

    mine, theirs = run(Host(tmp_path), Wrong(tmp_path))
    assert type(theirs) is FeatureError
    assert isinstance(mine, FeatureError)


def test_without_ids_each_party_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    found = sorted(warnings_of(caplog))
    assert len(found) == 2
    assert all(each.startswith("row order not verified: ") for each in found)
    assert "alice yields no ids" in found[0]
    assert "bob yields no ids" in found[1]


@pytest.mark.slow
def test_a_host_says_whose_rows_are_not_verified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(Host(tmp_path), TinyCollaborator(tmp_path))
    assert ["bob yields no ids" in each for each in warnings_of(caplog)] == [True, True]


@pytest.mark.slow
def test_a_loader_that_shuffles_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loading: Any = TinyCollaborator(tmp_path)
    data = TensorDataset(torch.zeros(4))
    drawn = {
        "train_loader": {"shuffle": True},
        "some": {"sampler": SubsetRandomSampler([0, 1])},
        "weighed": {"sampler": WeightedRandomSampler([1.0] * 4, 4)},
        "cut": {"batch_sampler": BatchSampler(RandomSampler(data), 2, drop_last=False)},
    }
    for name, settings in drawn.items():
        setattr(loading, name, DataLoader(data, **settings))  # type: ignore[arg-type]
    loading.plain = DataLoader(data)
    loading.plainly_cut = DataLoader(data, batch_sampler=[[0, 1], [2, 3]])
    loading.whole = DataLoader(data, batch_size=None)
    run(TinyHost(tmp_path), loading)
    (sharp,) = (each for each in warnings_of(caplog) if "shuffles by itself" in each)
    assert "self.train_loader, self.some, self.weighed, self.cut shuffles" in sharp
    assert "plain" not in sharp
