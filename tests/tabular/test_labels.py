"""How labels of real files are read: the kind of task, the classes, what is said and refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.objectives import Labels, check_weights, read_labels


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ([0, 1, 1], [0, 1, 1]),
        ([-1, 1, -1], [0, 1, 0]),
        ([1, 2, 2], [0, 1, 1]),
        ([0.0, 1.0], [0, 1]),
        ([True, False], [1, 0]),
        (["true", "False", " TRUE "], [1, 0, 1]),
        (["Yes", "no"], [1, 0]),
        (["是", "否"], [1, 0]),
        (["阴性", "阳性"], [0, 1]),
        (["y", "N", "y"], [1, 0, 1]),
        (["0", "1"], [0, 1]),
        (["-1", "+1"], [0, 1]),
        (["yes", 0, 1], [1, 0, 1]),
        (["good", "bad"], [1, 0]),
        (np.array([[3], [5]])[:, 0], [0, 1]),
        (torch.tensor([0, 1]), [0, 1]),
        (pd.Series([1, 0], index=[7, 8], dtype="Int64"), [1, 0]),
        (pd.Series(["a", "b"], dtype="category"), [0, 1]),
    ],
)
def test_two_values_are_a_binary_task(values: Any, codes: list[int]) -> None:
    labels = read_labels(values)
    assert labels.kind == "binary"
    assert labels.encode(values).tolist() == codes
    assert labels.encode(values).dtype == torch.float32
    assert labels.said.startswith("binary: ")


def test_which_class_is_positive_is_said_and_can_be_chosen() -> None:
    assert "'good' (1)" in read_labels(["good", "bad"]).said
    assert "positive=..." in read_labels(["good", "bad"]).said
    chosen = read_labels(["good", "bad"], positive="bad")
    assert chosen.encode(["good", "bad"]).tolist() == [0, 1]
    assert chosen.decode([1]) == ["bad"]
    turned = read_labels(["yes", "no"], positive="no")
    assert turned.encode(["yes", "no"]).tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"positive='ugly'.*'bad', 'good'"):
        read_labels(["good", "bad"], positive="ugly")


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        (["a", "b", "c", "a"], "auto", "multiclass"),
        ([1, 2, 3], "auto", "multiclass"),
        (["007", "7", "07"], "auto", "multiclass"),
        ([0.5, 1.0, 2.0], "auto", "regression"),
        (["0.5", "1e3", "2"], "auto", "regression"),
        (range(30), "auto", "regression"),
        ([1, 2, 3], "regression", "regression"),
        ([0, 1, 1], "regression", "regression"),
        ([0, 1, 5], "counts", "counts"),
        (["a", "b"], "multiclass", "multiclass"),
        (["a|b", "", "b"], "multilabel", None),
        (["a|b", "a", "b"], "multilabel", "multilabel"),
        (np.array([[0, 1], [1, 0], [1, 1]]), "auto", "multilabel"),
        (pd.DataFrame({"x": ["yes", "no"], "y": [1, -1]}), "auto", "multilabel"),
    ],
)
def test_kinds(values: Any, kind: Any, wanted: str | None) -> None:
    values = list(values) if isinstance(values, range) else values
    if wanted is None:
        with pytest.raises(ColumnError, match="no value"):
            read_labels(values, kind=kind)
        return
    labels = read_labels(values, kind=kind)
    assert labels.kind == wanted
    assert labels.said.startswith(f"{wanted}: ")
    encoded = labels.encode(values)
    assert len(encoded) == len(values)
    assert encoded.dtype == (torch.int64 if wanted == "multiclass" else torch.float32)


def test_several_labels_by_column_and_by_tag() -> None:
    frame = pd.DataFrame({"x": ["yes", "no"], "y": [1, -1]})
    assert read_labels(frame).encode(frame).tolist() == [[1, 1], [0, 0]]
    tags = ["red; blue", "blue"]
    labels = read_labels(tags, kind="multilabel")
    assert labels.classes == ("blue", "red")
    assert labels.encode(tags).tolist() == [[1, 1], [1, 0]]
    with pytest.raises(ColumnError, match=r"row 1.*not known"):
        labels.encode(["green"])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([], "auto", "no row"),
        ([1, None, 0], "auto", r"1 rows \(first: row 2\) have no value"),
        (["a", " ", "b"], "auto", "first: row 2"),
        ([1, 1, 1], "auto", "one value only"),
        ([2.5, 2.5], "regression", "one value only"),
        ([1.0, float("inf"), 0.5], "auto", r"first: row 2.*finite"),
        (["1", "x", "2"], "regression", r"first: row 2.*finite"),
        ([1, 2, 3], "binary", "3 classes"),
        ([0, -2], "counts", r"first: row 2.*no counts"),
        ([0.5, 2], "counts", r"first: row 1.*no counts"),
        ([f"id{n}" for n in range(50)], "auto", "ids or free text"),
        (["a", "b"], "multilabel", "separate them"),
        (np.ones((3, 1)), "auto", "at least two"),
    ],
)
def test_what_cannot_be_a_label_is_refused(values: Any, kind: Any, message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        read_labels(values, kind=kind, column="y")


def test_labels_of_another_file_are_read_alike_or_refused_by_row() -> None:
    labels = read_labels(["yes", "no"])
    assert labels.encode(["TRUE", "0", "n"]).tolist() == [1, 0, 0]
    words = read_labels(["cat", "dog", "cow"], column="animal")
    with pytest.raises(ColumnError, match=r"'animal': 1 rows \(first: row 2\)") as caught:
        words.encode(["cat", "secret"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("values", [["yes", "no"], [1, 2, 5], ["a", "b", "c"], [0.5, 2.0]])
def test_a_reading_can_be_kept(values: Any) -> None:
    labels = read_labels(values)
    kept = msgspec.json.decode(msgspec.json.encode(labels), type=Labels)
    assert kept == labels
    assert kept.encode(values).equal(labels.encode(values))


def test_no_such_kind() -> None:
    with pytest.raises(ConfigError, match="kind='ranking'"):
        read_labels([0, 1], kind="ranking")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="several label columns"):
        read_labels(np.eye(2), kind="binary")


def test_weights_are_checked() -> None:
    assert check_weights([1, 0.5]).tolist() == [1, 0.5]
    for bad in ([1, -1], [1, None], [0, 0], ["x", 1], [float("nan"), 1]):
        with pytest.raises(ColumnError):
            check_weights(bad)
