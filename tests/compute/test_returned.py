"""What hooks return, over the types that libraries give: converted, or refused at once."""

from __future__ import annotations

import dataclasses
import enum
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from heterofed import Batch, ConfigError, DataChecker, simulate, simulate_prediction
from heterofed.compute.alignment import check_ids, check_split
from heterofed.compute.batch import as_batch
from heterofed.compute.plain import as_truth
from heterofed.compute.tensors import named
from heterofed.data import IndexedDataset
from heterofed.errors import FeatureError, IdError
from heterofed.hetero_nn.predict.rows import as_columns, check_same_columns
from heterofed.intersection.ids import own_ids
from heterofed.runs.checkpoint_format import Snapshot, encode
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost

pytestmark = pytest.mark.usefixtures("home")


class Name(str, enum.Enum):  # noqa: UP042 - the old kind, whose str() is another
    """A string that shows itself otherwise."""

    ONE = "id-001"


class Own(str):
    """A subclass of no account."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


LISTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict keys": lambda ids: dict.fromkeys(ids).keys(),
    "generator": iter,
    "array": np.array,
    "array of objects": lambda ids: np.array(ids, dtype=object),
    "array of strings": lambda ids: np.array(ids, dtype=np.dtypes.StringDType()),
    "Series": pd.Series,
    "Series of objects": lambda ids: pd.Series(ids, dtype=object),
    "Series of categories": lambda ids: pd.Series(ids, dtype="category"),
    "Index": pd.Index,
    "pandas array": lambda ids: pd.array(ids, dtype="string"),
    "pyarrow strings in pandas": lambda ids: pd.array(ids, dtype="string[pyarrow]"),
    "pyarrow array": pa.array,
    "pyarrow chunks": lambda ids: pa.chunked_array([ids]),
    "large strings": lambda ids: pa.array(ids, pa.large_string()),
    "pyarrow dictionary": lambda ids: pa.array(ids).dictionary_encode(),
    "subclasses": lambda ids: list(map(Own, ids)),
}

NO_LISTS: dict[str, Any] = {
    "str": "abc",
    "bytes": b"abc",
    "None": None,
    "int": 3,
    "frame": pd.DataFrame({"id": IDS}),
    "dict": dict.fromkeys(IDS),
    "pyarrow table": pa.table({"id": IDS}),
    "matrix": np.array([IDS]),
    "array without dimensions": np.array("a"),
    "tensor": torch.arange(3),
    "ints": [1, 2],
    "array of ints": np.arange(3),
    "Series of floats": pd.Series([1.0, 2.0]),
    "bytes in an array": np.array([b"a"]),
    "missing": ["a", None],
    "NaN": ["a", float("nan")],
    "NA": pd.array(["a", pd.NA], dtype="string"),
    "pyarrow null": pa.array(["a", None]),
    "tuples": pd.MultiIndex.from_tuples([("a", "b")]),
    "dates": pd.to_datetime(["2020-01-01"]),
    "lists": [["a"]],
}


@pytest.mark.parametrize("form", LISTS)
def test_ids_of_every_form_are_plain_strings(form: str) -> None:
    make = LISTS[form]
    reads: Any = (
        check_ids,
        lambda ids: list(own_ids(ids)),
        lambda ids: check_split((ids, ["x"]))[0],
        lambda ids: as_batch(Batch(torch.ones(3), ids=ids), "hook", with_labels=False).ids,
        lambda ids: IndexedDataset([1, 2, 3], ids).ids,  # type: ignore[arg-type]
    )
    for read in reads:
        got = read(make(IDS[:3]))
        assert sorted(got) == IDS[:3]
        assert {type(each) for each in got} == {str}
    assert check_ids([Name.ONE]) == ["id-001"]


@pytest.mark.parametrize("form", NO_LISTS)
def test_other_forms_are_refused_at_once(form: str) -> None:
    for read, error in (
        (lambda ids: check_ids(ids, "load_predict_ids"), IdError),
        (own_ids, IdError),
        (lambda ids: check_split((["x"], ids)), IdError),
        (
            lambda ids: as_batch(Batch(torch.ones(2), ids=ids), "it", with_labels=False),
            FeatureError,
        ),
    ):
        if error is FeatureError and form == "None":
            continue  # a batch may come without ids
        with pytest.raises(error) as caught:
            read(NO_LISTS[form])
        assert "id-0" not in str(caught.value)


def test_an_open_file_gives_lines_and_no_ids(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\nb\n")
    with (tmp_path / "ids").open() as file, pytest.raises(IdError, match="line breaks"):
        check_ids(file)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["array", "Series", "pyarrow array", "subclasses"])
def test_a_run_over_ids_of_other_types(form: str, tmp_path: Path) -> None:
    make = LISTS[form]

    class Mixed:
        def load_local_ids(self) -> Any:
            return make(super().load_local_ids())  # type: ignore[misc]

        def split_dataset(self, id_intersection: set[str]) -> Any:
            ids = list(id_intersection)
            return make(ids[:30]), make(ids[30:])

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for number, item in enumerate(super().iterate_train_feature(feature_model, train_ids)):  # type: ignore[misc]
                features, labels = item if isinstance(item, tuple) else (item, None)
                ids = train_ids[number * 16 : number * 16 + 16]
                yield Batch(features, labels, make(ids))

    class Host(Mixed, TinyHost):
        def load_predict_ids(self) -> Any:
            return make(IDS[20:23])

        def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
            fused = torch.cat(list(feature_projection.values()), dim=1)
            return {"p": self.infer_model(fused).squeeze(1).numpy()}

    class Collaborator(Mixed, TinyCollaborator):
        pass

    host, bob = Host(tmp_path, max_rounds=1), Collaborator(tmp_path)
    simulate(host, [bob], task_id="forms")
    assert {type(each) for each in host.train_ids} == {str}
    frame = simulate_prediction(host, [bob], task_id="forms").results["alice"]
    assert list(frame["id"]) == IDS[20:23]
    frame = simulate_prediction(host, [bob], task_id="forms", ids=make(IDS[23:19:-1])).results[
        "alice"
    ]
    assert list(frame["id"]) == IDS[23:19:-1]


def test_texts_name_what_was_given(tmp_path: Path) -> None:
    host, bob = TinyHost(tmp_path, max_rounds=1), TinyCollaborator(tmp_path)
    host_type: Any = type(host)
    predicts = type("Predicts", (host_type,), {"predict_a_batch": lambda _s, p: p["bob"]})
    host = predicts(tmp_path, max_rounds=1)
    simulate(host, [bob], task_id="texts")
    with pytest.raises(IdError, match="the ids given to predict gave no id"):
        host.predict("texts", [])
    host.load_predict_ids = list
    with pytest.raises(IdError, match="load_predict_ids gave no id"):
        host.predict("texts")
    with pytest.raises(IdError, match="allow_ids"):
        bob.serve_predictions("texts", max_rows_per_day=1, allow_ids=np.arange(2))


# -- answers -------------------------------------------------------------------------------------

YES: list[Any] = [
    True,
    np.True_,
    torch.tensor(True),
    torch.tensor([True]),
    np.array([True]),
    pa.scalar(True),
]
NO: list[Any] = [False, np.False_, torch.tensor(False), np.array(False), pa.scalar(False)]


class Checker(DataChecker):
    answer: Any = True

    def verify_data(self) -> Any:
        return self.answer


def test_answers_of_verify_data(caplog: pytest.LogCaptureFixture) -> None:
    checker = Checker("answers")
    for answer, want in [*((each, True) for each in YES), *((each, False) for each in NO)]:
        for form in (answer, (answer, "since it is so")):
            checker.answer = form
            assert checker.execute_verification() is want
    caplog.clear()
    for checker.answer in (None, "no", 3, pd.Series([True, False]), pd.NA, (True, False)):
        assert checker.execute_verification() is False
    assert caplog.text.count("must return True or False") == 6


def test_answers_of_is_task_finished(tmp_path: Path) -> None:
    for answer in [*YES, 1, [0.1]]:
        assert as_truth(answer, "it") is True
    for answer in [*NO, None, 0, [], ()]:
        assert as_truth(answer, "it") is False
    for answer in ("False", np.array([True, False]), pd.NA, tmp_path.exists, (x for x in "a")):
        with pytest.raises(ConfigError, match="it must return True or False"):
            as_truth(answer, "it")


@pytest.mark.parametrize(
    "state",
    [
        {"best": np.arange(3)},
        {"lock": threading.Lock()},
        lambda: None,
        (each for each in "abc"),
        pd.Series([1.0]),
        dataclasses.make_dataclass("Own", ["x"])(1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_extra_state_that_cannot_be_kept(state: Any) -> None:
    with pytest.raises(ConfigError, match="extra_state must give"):
        encode(Snapshot(1, extra=state))


# -- predictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        torch.ones(3),
        np.ones(3),
        pd.Series([1.0, 2.0, 3.0]),
        pd.array([1, 2, 3], dtype="Int64"),
        pa.array([1.0, 2.0, 3.0]),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, requires_grad=True),
        torch.ones(3, dtype=torch.complex64).conj().imag,
    ],
    ids=lambda each: f"{type(each).__name__} {each.dtype if hasattr(each, 'dtype') else ''}",
)
def test_predictions_of_every_form(outcome: Any) -> None:
    assert list(as_columns(outcome, 3)) == ["prediction"]
    assert list(as_columns({"a": outcome}, 3)) == ["a"]
    assert len(as_columns(outcome, 3)["prediction"].numpy()) == 3


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (None, "not a NoneType"),
        ([1.0, 2.0, 3.0], "not a list"),
        ((torch.ones(3), torch.ones(3)), "not a tuple"),
        (np.array(["a", "b", "c"]), "not a ndarray"),
        (torch.ones(2), "for 3 rows"),
        (torch.tensor(1.0), "for 3 rows"),
        (torch.ones(3, 1, 1), "for 3 rows"),
        (torch.ones(3).to_sparse(), "not a Tensor"),
        ({}, "no column"),
        ({"id": torch.ones(3)}, "'id', which is there already"),
        ({"parties": torch.ones(3)}, "'parties', which is there already"),
        ({"p": torch.ones(3, 2), "p_1": torch.ones(3)}, "'p_1', which is there already"),
        ({1: torch.ones(3), "1": torch.ones(3)}, "'1', which is there already"),
    ],
)
def test_predictions_that_cannot_be_used(outcome: Any, says: str) -> None:
    with pytest.raises(FeatureError, match=says):
        as_columns(outcome, 3)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"a": torch.ones(1)}, r"batch 4 is without \['b'\]"),
        ({"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1)}, r"batch 4 has \['c'\] too"),
        ({"a": torch.ones(1), "c": torch.ones(1)}, r"is without \['b'\] and has \['c'\] too"),
        ({"a": torch.ones(1), "b": torch.ones(1, dtype=torch.int64)}, "int64 in batch 4"),
    ],
)
def test_columns_that_vary_by_batch(columns: Any, says: str) -> None:
    first = {"a": torch.ones(2), "b": torch.ones(2)}
    with pytest.raises(FeatureError, match=says):
        check_same_columns(first, columns, 4)
    check_same_columns(first, {"b": torch.ones(1), "a": torch.ones(1)}, 4)


@pytest.mark.slow
def test_test_ids_among_the_train_ids_are_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def split(ids: set[str]) -> Any:
        return set(ids), set(sorted(ids)[:7])

    host: Any = TinyHost(tmp_path, max_rounds=1)
    bob: Any = TinyCollaborator(tmp_path)
    host.split_dataset = bob.split_dataset = split
    with caplog.at_level(logging.WARNING, logger="heterofed"):
        simulate(host, [bob], task_id="twice")
    assert "7 of the 7 test ids are train ids too" in caplog.text


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ((torch.ones(2, 1), ["a", "b"]), "put ids into Batch(features, ids=...)"),
        ({"n": 3}, "tensor 'n' is not a tensor but of type int"),
        ((torch.ones(2), (torch.ones(2),)), "tensor '1' is not a tensor but of type tuple"),
    ],
)
def test_what_stands_beside_features_is_named(features: Any, says: str) -> None:
    with pytest.raises(FeatureError, match=re.escape(says)):
        named(features, "the hook")


def test_a_tuple_of_three_is_told_where_ids_go() -> None:
    with pytest.raises(FeatureError, match=r"Batch\(features, labels, ids\), not a tuple of 3"):
        as_batch((torch.ones(2, 1), torch.ones(2), ["a", "b"]), "the hook", with_labels=True)
