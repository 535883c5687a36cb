"""Whatever `train_a_batch` returns, training goes on; `train.csv` has means over what came."""

from __future__ import annotations

import logging
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heterofed import ConfigError, simulate
from heterofed.metrics import Metrics, as_scalar
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")


class Host(TinyHost):
    """Trains as ever and returns something else."""

    def __init__(self, folder: Path, returns: Any, **settings: Any) -> None:
        super().__init__(folder, psi_protocol="ecdh", leak_report="off", **settings)
        self.returns, self.number = returns, -1

    def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
        super().train_a_batch(feature_projection, labels)
        self.number += 1
        return self.returns(self.number)


def trained(folder: Path, returns: Any, **settings: Any) -> pd.DataFrame:
    host = Host(folder, returns, **settings)
    done = simulate(host, [TinyCollaborator(folder)], task_id="recorded")
    assert done.results["alice"].rounds == host.max_rounds
    path = folder / "recorded" / "alice" / "train.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


NUMBERS = [
    1,
    1.0,
    True,
    torch.tensor(1.0, requires_grad=True),
    torch.ones(1),
    torch.tensor([[True]]),
    np.float32(1),
    np.int64(1),
    np.bool_(True),
    np.ones((1, 1)),
    Fraction(1),
    Decimal(1),
]


@pytest.mark.slow
def test_numbers_of_any_library_are_recorded(tmp_path: Path) -> None:
    table = trained(tmp_path, lambda n: NUMBERS[n % len(NUMBERS)], max_rounds=5)
    assert list(table["loss"]) == [1.0] * 5


def test_metrics_take_numbers_of_any_library() -> None:
    assert [as_scalar(each, "it") for each in NUMBERS] == [1.0] * len(NUMBERS)
    assert as_scalar(np.str_("text"), "it") == "text"
    for several in (torch.ones(2), np.ones(0), [1.0], None, 1j, pd.Series([1, 2])):
        with pytest.raises(ConfigError, match=r"it: give a number or an array of one number"):
            as_scalar(several, "it")


@pytest.mark.slow
def test_what_is_no_number_is_told_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd: list[Any] = [
        "text",
        torch.zeros(2),
        np.zeros(0),
        [1.0],
        (0.5, 1),
        1j,
        object(),
        {"loss": 2.0, "curve": [1]},
    ]
    with caplog.at_level(logging.WARNING, "heterofed"):
        table = trained(tmp_path, lambda n: odd[n % len(odd)], max_rounds=3)
    assert set(table["loss"].dropna()) == {2.0}
    told = [each.getMessage() for each in caplog.records if "no number" in each.getMessage()]
    assert [(": return" in each, "as loss" in each, "as curve" in each) for each in told] == [
        (True, True, False),
        (True, False, True),
    ]


@pytest.mark.slow
def test_a_mean_is_over_the_batches_that_returned_it(tmp_path: Path) -> None:
    returned: list[Any] = [None, 4.0, {"loss": 2.0, "extra": 1}, {}, {"extra": 0, 7: 1}, None]
    table = trained(tmp_path, lambda n: returned[n % 3 + 3 * (n >= 3)], max_rounds=2)
    assert list(table.columns) == ["round", "loss", "extra", "7"]
    assert table["loss"][0] == 3.0
    assert table["extra"][0] == 1.0
    assert math.isnan(table["7"][0])
    assert math.isnan(table["loss"][1])
    assert (table["extra"][1], table["7"][1]) == (0.0, 1.0)


def test_nan_is_told_as_it_is(tmp_path: Path) -> None:
    table = trained(tmp_path, lambda n: {"loss": math.nan if n % 3 == 1 else 1.0, "ok": 1})
    assert table["loss"].isna().all()
    assert list(table["ok"]) == [1.0, 1.0]


@pytest.mark.slow
def test_nothing_returned_leaves_no_table(tmp_path: Path) -> None:
    assert trained(tmp_path, lambda n: None).empty


@pytest.mark.slow
def test_a_column_that_came_later_goes_with_its_round(tmp_path: Path) -> None:
    """A run that ended in its second round goes on from the first, whose table had one column."""

    class Breaks(Host):
        broken = False

        def on_round_end(self) -> None:
            if self.current_round == 2 and not Breaks.broken:
                Breaks.broken = True
                raise KeyError("stop")

    later = {"loss": 2.0, "later": 5.0}
    outcomes = run(Breaks(tmp_path, lambda n: later if n >= 3 else 1.0), TinyCollaborator(tmp_path))
    assert isinstance(outcomes[0], KeyError)
    path = tmp_path / "tiny" / "alice" / "train.csv"
    assert list(pd.read_csv(path).columns) == ["round", "loss", "later"]
    outcomes = run(Breaks(tmp_path, lambda n: 3.0), TinyCollaborator(tmp_path))
    assert outcomes[0].rounds == 2
    table = pd.read_csv(path)
    assert table.to_dict("list") == {"round": [1, 2], "loss": [1.0, 3.0]}


def test_a_widened_table_is_cut_to_the_bytes_it_had(tmp_path: Path) -> None:
    table = Metrics("train", ["loss"], tmp_path, lambda: 1)
    table.append_metrics_item({"loss": 0.5})
    size, content = table.size, table.path.read_bytes()
    table.widen(["loss", "extra"])
    table.append_metrics_item({"loss": 1, "extra": 2})
    assert pd.read_csv(table.path)["extra"].isna().tolist() == [True, False]
    for metrics in (table, Metrics("train", ["loss"], tmp_path, lambda: 1)):
        metrics.widen(["extra"])
        metrics.cut(size, ["loss"])
        assert table.path.read_bytes() == content
        assert metrics.keys == ("loss",)
