"""Replaces a missing party by random features or labels of the right shape.

With it, one side of a task can be written and tried out alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed.compute.batch import Batch
from heterofed.errors import ConfigError
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.hetero_nn.hooks import PartyHooks, half_engine
from heterofed.runs.settings import is_count

COLUMNS = 4
"""The number of random columns from which a fake party computes its features."""


def fake_peer(
    beside: PartyHooks,
    feature_key: str = "fake",
    *,
    batch_size: int | None = None,
    shape: Sequence[int] = (8,),
    **settings: Any,
) -> Any:
    """Return the other side of a party that you write, for `simulate`.

    Args:
        beside: your party. If it is a Host, the fake party is a Collaborator. If it is a
            Collaborator, the fake party is a Host whose labels are random and whose model takes
            features of any shape.
        feature_key: the feature key of the fake party.
        batch_size: the number of rows of its batches, which is not needed if your Host has one.
        shape: the shape of its features, without the rows.
        settings: further arguments of its scheduler, such as `max_rounds` or `seed`.

    Returns:
        A scheduler with all ids of your party, and random columns that depend on the id alone.

    Raises:
        ConfigError: there is no batch size, or it is invalid.
    """
    is_host = isinstance(beside, HeteroNNHostScheduler)
    given = half_engine(beside).settings
    rows = batch_size or (given.batch_size if is_host else None)
    if rows is None or not is_count(rows, least=1):
        raise ConfigError(f"batch_size={batch_size!r}: give the rows of your own batches")
    settings = {"results_dir": given.results_dir, **settings}
    if is_host:
        return _FakeCollaborator(beside, feature_key, rows, shape, settings)
    return _FakeHost(beside, feature_key, rows, shape, {"max_rounds": 1, **settings})


def random_columns(ids: Sequence[str]) -> Tensor:
    """Return numbers that depend on each id alone: float32 of shape [ids, COLUMNS]."""
    generator = torch.Generator()
    rows = [
        torch.randn(COLUMNS, generator=generator.manual_seed(zlib.crc32(each.encode())))
        for each in ids
    ]
    return torch.stack(rows)


class _Fake(PartyHooks):
    """The base of both fake parties."""

    def __init__(
        self,
        beside: PartyHooks,
        key: str,
        rows: int,
        shape: Sequence[int],
        settings: dict[str, Any],
    ) -> None:
        super().__init__(key, **settings)  # type: ignore[call-arg]
        self._beside, self._rows, self._shape = beside, rows, tuple(shape)

    def load_local_ids(self) -> Iterable[str]:
        return self._beside.load_local_ids()

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return self._beside.split_dataset(id_intersection)

    def make_feature_model(self) -> nn.Module:
        width = int(torch.tensor(self._shape).prod())
        return nn.Sequential(nn.Linear(COLUMNS, width), nn.Unflatten(1, self._shape))

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.01)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for start in range(0, len(train_ids), self._rows):
            ids = train_ids[start : start + self._rows]
            columns = random_columns(ids)
            labels = None if isinstance(self, HeteroNNCollaboratorScheduler) else columns[:, 0] > 0
            yield Batch(feature_model(columns), labels, ids)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)


class _FakeCollaborator(_Fake, HeteroNNCollaboratorScheduler):
    """A fake Collaborator with random columns."""


class _FakeHost(_Fake, HeteroNNHostScheduler):
    """A fake Host with random labels and a model for features of any shape."""

    def make_infer_model(self) -> nn.Module:
        return nn.LazyLinear(1)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=0.01)

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            self._logits(feature_projection), labels.float()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def test(self, batched_feature_projections: list[Any], batched_labels: list[Any]) -> None:  # noqa: ARG002
        for each in batched_feature_projections:
            self._logits(each)

    def _logits(self, projection: dict[str, Any]) -> Tensor:
        flat = []
        for features in projection.values():
            several = features.values() if isinstance(features, dict) else features
            for each in (features,) if isinstance(features, Tensor) else several:
                flat.append(each.float().reshape(len(each), -1))
        output: Tensor = self.infer_model(torch.cat(flat, dim=1))
        return output.squeeze(1)
