"""Rows are served as they were trained: what stands for missing values, and columns, are kept."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from heterofed import Batch, simulate, simulate_prediction
from heterofed.data import VerticalTable
from heterofed.errors import ColumnError, FeatureError
from heterofed.export import export
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost

pytestmark = pytest.mark.usefixtures("home")


def frame(columns: str, seed: int, missing: bool = True) -> pd.DataFrame:
    numbers = np.random.default_rng(seed).normal(size=(len(IDS), len(columns)))
    if missing:
        numbers[::7, 0] = np.nan
    return pd.DataFrame(numbers, columns=list(columns)).assign(id=IDS)


def host_frame() -> pd.DataFrame:
    return frame("ab", 1).assign(y=[float(int(each[3:]) % 2) for each in IDS])


class Host(TinyHost):
    """Reads its rows from a table."""

    def __init__(self, results: Path, data: Any, **settings: Any) -> None:
        super().__init__(results, **settings)
        self.table = data

    def load_local_ids(self) -> Any:
        return self.table.ids[:50]

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for batch in self.table.batches(train_ids, 16):
            yield Batch(feature_model(batch.features), batch.labels, batch.ids)

    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Iterator[Any]:
        for batch in self.table.batches(predict_ids, 7):
            yield Batch(feature_model(batch.features), ids=batch.ids)

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        return self.infer_model(torch.cat(list(feature_projection.values()), dim=1)).squeeze(1)


class Collaborator(TinyCollaborator):
    """Likewise."""

    def __init__(self, results: Path, data: Any, **settings: Any) -> None:
        super().__init__(results, **settings)
        self.table = data

    def load_local_ids(self) -> Any:
        return self.table.ids

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for batch in self.table.batches(train_ids, 16):
            yield Batch(feature_model(batch.features), ids=batch.ids)


def host_table(data: pd.DataFrame, **settings: Any) -> VerticalTable:
    label = "y" if "y" in data else None
    return VerticalTable(data, id="id", label=label, **{"missing": "mean", **settings})


def table(data: pd.DataFrame, **settings: Any) -> VerticalTable:
    return VerticalTable(data, id="id", **{"missing": "mean", **settings})


def trained(path: Path, **settings: Any) -> tuple[Host, Collaborator]:
    pair = (Host(path, host_table(host_frame()), **settings), Collaborator(path, table(theirs())))
    simulate(pair[0], [pair[1]], task_id="served")
    return pair


def theirs() -> pd.DataFrame:
    return frame("cde", 2).iloc[10:]


def predict(path: Path, host: Any, collaborator: Any, ids: list[str] | None = None) -> Any:
    done = simulate_prediction(
        Host(path, host), [Collaborator(path, collaborator)], task_id="served", ids=ids
    )
    return done.results["alice"].set_index("id")["prediction"]


@pytest.mark.slow
def test_a_row_served_alone_is_the_row_that_was_trained(tmp_path: Path) -> None:
    host, collaborator = trained(tmp_path)
    mine, other = host_frame(), theirs()
    together = predict(tmp_path, host_table(mine), table(other))
    kept = {
        each: json.loads((tmp_path / f"served/{each}/signature.json").read_text())
        for each in ("alice", "bob")
    }
    for party, data in ((host, mine), (collaborator, other)):
        (said,) = kept[party.feature_key]["tables"]
        at = data.set_index("id").loc[party.train_ids, said["names"]]
        np.testing.assert_allclose(said["means"], at.mean(), rtol=1e-6)
        assert said["missing"] == "mean"
    card = json.loads(export(tmp_path / "served/bob", tmp_path / "out").read_text())
    assert card["inputs"] == kept["bob"]
    missing = [each for each in together.index if mine.set_index("id")["a"].isna()[each]]
    assert missing
    for one in [
        *missing[:2],
        next(each for each in together.index if other.set_index("id")["c"].isna()[each]),
    ]:
        alone = predict(
            tmp_path, host_table(mine[mine["id"] == one]), table(other[other["id"] == one]), [one]
        )
        assert alone[one] == pytest.approx(together[one], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("party", ["host", "collaborator"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[[*reversed(d.columns)]], "another order"),
        (lambda d: d.rename(columns={d.columns[0]: "z"}), "without '.' and with 'z'"),
        (lambda d: d.assign(z=1.0), "with 'z'"),
        (lambda d: d.drop(columns=d.columns[0]), "without"),
        (lambda d: d.assign(**{d.columns[1]: True}), "bool values"),
    ],
)
def test_other_columns_are_refused_before_a_row_is_served(
    party: str, change: Any, says: str, tmp_path_factory: Any, once: Path
) -> None:
    host, other = host_frame(), theirs()
    host, other = (
        (change(host.drop(columns="y")), other) if party == "host" else (host, change(other))
    )
    with pytest.raises(ColumnError, match=says) as caught:
        predict(once, host_table(host), table(other))
    assert ("alice" if party == "host" else "bob") in str(caught.value)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("once")
    before = os.environ.get("HETEROFED_HOME")
    os.environ["HETEROFED_HOME"] = str(path / "home")
    trained(path)
    yield path
    os.environ.pop("HETEROFED_HOME") if before is None else os.environ.update(HETEROFED_HOME=before)


@pytest.mark.slow
def test_other_ways_with_missing_values_are_refused(once: Path) -> None:
    with pytest.raises(ColumnError, match="trained with missing='mean'"):
        predict(once, host_table(host_frame()), table(theirs(), missing="zero"))
    full = theirs().fillna(1.0)
    predict(once, host_table(host_frame()), table(full, missing="error"))


def test_whole_numbers_may_be_served_as_floats(once: Path) -> None:
    """One row of a CSV file has whatever dtype its own value has."""
    one = theirs().iloc[[2]].assign(c=1)
    predict(once, host_table(host_frame()), table(one), [one["id"].iloc[0]])


class Framed(Collaborator):
    """Reads rows from a DataFrame by hand."""

    columns: Any = None

    def load_local_ids(self) -> Any:
        return self.table.index

    def feature_columns(self) -> Any:
        return self.columns

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), 16):
            at = self.table.loc[train_ids[start : start + 16], self.columns or list(self.table)]
            yield feature_model(torch.tensor(at.to_numpy(), dtype=torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("declared", [None, ["e", "c", "d"]])
def test_feature_columns_of_frames_read_by_hand(declared: Any, tmp_path: Path) -> None:
    data = frame("cde", 2, missing=False).iloc[10:].set_index("id")
    host = Host(tmp_path, host_table(host_frame()))
    bob = Framed(tmp_path, data)
    bob.columns = declared
    simulate(host, [bob], task_id="served")
    other = Framed(tmp_path, data[["d", "c", "e"]])
    other.columns = declared

    def served() -> Any:
        return simulate_prediction(host, [other], task_id="served")

    if declared is None:
        with pytest.raises(ColumnError, match="another order"):
            served()
    else:  # it is said which columns are read
        served()
        other.columns = ["e", "d", "c"]
        with pytest.raises(ColumnError, match="another order"):
            served()


@pytest.mark.slow
def test_features_of_another_width_are_refused_at_the_host_too(tmp_path: Path) -> None:
    trained(tmp_path)
    wide: Any = Host(tmp_path, host_table(host_frame()))
    wide.iterate_predict_feature = lambda model, ids: iter([(torch.zeros(len(ids), 4), None)])
    with pytest.raises(
        FeatureError, match=r"of \[4\] float32 per row, but in training they were \[3\]"
    ):
        simulate_prediction(wide, [Collaborator(tmp_path, table(theirs()))], task_id="served")


def test_a_column_without_any_train_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = theirs().assign(d=np.nan)
    host = Host(tmp_path, host_table(host_frame()))
    with pytest.raises(ColumnError, match="columns 'd' have no value"):
        simulate(host, [Collaborator(tmp_path, table(empty))], task_id="served")
    with caplog.at_level(logging.WARNING, logger="heterofed"):
        table(empty, missing="zero")
    assert "hold no value at all" in caplog.text


def test_a_test_table_in_another_order_than_the_train_table(tmp_path: Path) -> None:
    host, bob = Host(tmp_path, host_table(host_frame())), Collaborator(tmp_path, table(theirs()))
    other = table(theirs()[["id", "e", "d", "c"]])

    def iterate(feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        for batch in other.batches(test_ids, 16):
            yield feature_model(batch.features)

    bob.iterate_test_feature = iterate  # type: ignore[method-assign]
    with pytest.raises(ColumnError, match="another order"):
        simulate(host, [bob], task_id="served")


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_means(tmp_path: Path) -> None:
    class Falls(Host):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                raise RuntimeError("power cut")

    other = theirs()
    with pytest.raises(RuntimeError, match="power cut"):
        simulate(
            Falls(tmp_path, host_table(host_frame()), max_rounds=3),
            [Collaborator(tmp_path, table(other))],
            task_id="served",
        )
    before = other["c"].mean()
    other["c"] += 100.0  # nobody fits it again
    host = Host(tmp_path, host_table(host_frame()), max_rounds=3)
    simulate(host, [Collaborator(tmp_path, table(other))], task_id="served", resume="require")
    kept = json.loads((tmp_path / "served/bob/signature.json").read_text())["tables"][0]["means"]
    assert abs(kept[0] - before) < 1
