"""Labels of any form that training code takes, at a Host with and without features of its own."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from heterofed import Batch, simulate
from heterofed.compute.batch import rows_of
from heterofed.errors import FeatureError, RowCountError
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows

pytestmark = pytest.mark.usefixtures("home")

Pair = namedtuple("Pair", ["sign", "size"])

FORMS: dict[str, Callable[[int], Any]] = {
    "one by one": lambda n: torch.arange(n) % 2,
    "column": lambda n: torch.zeros(n, 1),
    "one-hot": lambda n: torch.eye(2)[torch.arange(n) % 2],
    "array": lambda n: np.arange(n) % 2,
    "series": lambda n: pd.Series(range(n)),
    "frame": lambda n: pd.DataFrame({"a": range(n), "b": range(n)}),
    "list": lambda n: [k % 2 for k in range(n)],
    "words": lambda n: [f"class {k % 2}" for k in range(n)],
    "ragged": lambda n: [[1] * (k % 3) for k in range(n)],
    "boxes of each image": lambda n: [{"boxes": torch.zeros(k % 3, 4)} for k in range(n)],
    "boxes of all images": lambda n: torch.zeros(3 * n + 1, 6),
    "concatenated, with lengths": lambda n: (torch.zeros(3 * n + 1), torch.full((n,), 3)),
    "concatenated, with lengths in a list": lambda n: (torch.zeros(2 * n), [2] * n),
    "concatenated": lambda n: torch.zeros(3 * n),
    "time-major": lambda n: torch.zeros(5, n),
    "time-major, deep": lambda n: torch.zeros(5, n, 3),
    "dict": lambda n: {"sign": torch.zeros(n), "size": torch.zeros(n, 2)},
    "ordered dict": lambda n: OrderedDict(sign=torch.zeros(n), group=1),
    "dict of a batch": lambda n: {"prior": torch.zeros(4), "weight": 0.5},
    "tuple": lambda n: (torch.zeros(n), torch.zeros(n, 2)),
    "named tuple": lambda n: Pair(torch.zeros(n), torch.zeros(n)),
    "pairs of rows": lambda n: torch.zeros(n // 2),
    "nested": lambda n: {"heads": [(torch.zeros(n), None), (torch.zeros(n, 3), None)]},
    "packed": lambda n: nn.utils.rnn.pack_sequence(
        [torch.ones(1 + k % 3) for k in range(n)], enforce_sorted=False
    ),
    "sparse": lambda n: torch.eye(n).to_sparse(),
    "nothing to measure": lambda n: object(),
    "one for all": lambda n: torch.tensor(1.0),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [6, 24])
def test_labels_that_may_fit_are_taken(form: str, rows: int) -> None:
    labels = FORMS[form](rows)
    assert rows_of(Batch(torch.zeros(rows, 2), labels), "iterate") == rows
    assert rows_of(Batch(None, labels, ids=["x"] * rows), "iterate", rows) == rows
    alone = {"boxes of all images", "concatenated", "pairs of rows", "dict of a batch"}
    if form not in alone:  # of those a label-only Host has to give ids
        assert rows_of(Batch(None, labels), "iterate", rows) == rows


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(31),
        torch.zeros(31, 1),
        np.zeros(33),
        [0.0] * 31,
        ["a"] * 33,
        torch.zeros(0),
        {"a": torch.zeros(31)},
        (torch.zeros(31), [0] * 31),
    ],
)
def test_labels_that_certainly_do_not_fit_are_refused(labels: Any) -> None:
    with pytest.raises(FeatureError, match="32 rows of features and"):
        rows_of(Batch(torch.zeros(32, 2), labels), "iterate")


def test_an_empty_batch_has_no_labels() -> None:
    assert rows_of(Batch(torch.zeros(0, 2), torch.zeros(0)), "iterate") == 0


class Host(TinyHost):
    """Trains on its features alone; what its labels are does not matter."""

    form: Callable[[int], Any]
    label_only = False

    def __init__(self, folder: Path, form: Callable[[int], Any], **settings: Any) -> None:
        super().__init__(folder, psi_protocol="ecdh", leak_report="full", **settings)
        self.form = form
        self.seen: list[Any] = []

    def make_feature_model(self) -> Any:
        return None if self.label_only else super().make_feature_model()

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            features = None if self.label_only else feature_model(rows(ids, 2, 0))
            yield Batch(features, self.form(len(ids)), ids)

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        self.seen.append(labels)
        loss = self.infer_model(torch.cat(list(feature_projection.values()), dim=1)).pow(2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def test(self, batched_feature_projections: list[Any], batched_labels: list[Any]) -> None:
        self.seen += batched_labels


class LabelOnly(Host):
    label_only = True


WHOLE_RUNS = [
    "concatenated, with lengths",
    "time-major",
    "nested",
    "packed",
    "nothing to measure",
    "words",
]


@pytest.mark.slow
@pytest.mark.parametrize("host", [Host, LabelOnly])
@pytest.mark.parametrize("form", WHOLE_RUNS)
def test_a_run_over_such_labels(host: type[Host], form: str, tmp_path: Path) -> None:
    """Training, tests, the leak report, baselines and a rehearsal."""
    alice, bob = host(tmp_path, FORMS[form]), TinyCollaborator(tmp_path)
    simulate(alice, [bob], task_id="labels", rehearse=True)
    done = simulate(alice, [bob], task_id="labels", baselines=["pooled"])
    assert done.results["alice"].rounds == 2
    assert {type(each) for each in alice.seen} == {type(FORMS[form](4))}


def test_rows_that_differ_are_still_told_at_a_label_only_host(tmp_path: Path) -> None:
    class Other(LabelOnly):
        batch = 8

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for batch in super().iterate_train_feature(feature_model, train_ids):
                yield None, batch.labels

    def labels(count: int) -> Tensor:
        return torch.zeros(count, 3)

    with pytest.raises(RowCountError, match="16 rows at bob and 8 at alice"):
        simulate(Other(tmp_path, labels), [TinyCollaborator(tmp_path)], task_id="labels")
