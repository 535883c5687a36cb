"""Parts of a scoring are kept whole, and make the same file however often they were interrupted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from heterofed.errors import ConfigError
from heterofed.tabular.scoring.parts import Parts

VERSION = bytes(32)
CHUNKS = [["a", "b"], ["c", "d"], ["e"]]


def frame(ids: list[str]) -> pd.DataFrame:
    served = [each for each in ids if each not in "cd"]
    return pd.DataFrame({"id": served, "probability": [len(served) / 3] * len(served)})


def keep(parts: Parts, number: int) -> None:
    ids = CHUNKS[number]
    if parts.rows_of(number, ids) is None:
        parts.keep(number, ids, frame(ids), VERSION)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_file_is_the_same_wherever_a_run_was_killed(tmp_path: Path, name: str) -> None:
    whole = Parts(tmp_path / "whole" / name, "t", 2)
    for number in range(3):
        keep(whole, number)
    whole.finish(3)
    for killed in range(4):
        out = tmp_path / str(killed) / name
        first = Parts(out, "t", 2)
        for number in range(killed):
            keep(first, number)
        again = Parts(out, "t", 2)
        for number in range(3):
            assert (again.rows_of(number, CHUNKS[number]) is not None) == (number < killed)
            keep(again, number)
        again.finish(3)
        assert out.read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert [each.name for each in out.parent.iterdir()] == [name]
    read = pd.read_csv if name == "out.csv" else pd.read_parquet
    assert list(read(out)["id"]) == ["a", "b", "e"]


def test_parts_of_something_else_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    keep(Parts(out, "t", 2), 0)
    with pytest.raises(ConfigError, match="of the task 't'"):
        Parts(out, "u", 2)
    parts = Parts(out, "t", 2)
    with pytest.raises(ConfigError, match="the table has changed"):
        parts.rows_of(0, ["a", "x"])
    with pytest.raises(ConfigError, match="use that version again"):
        parts.keep(2, ["e"], frame(["e"]), bytes([1]) * 32)
    with pytest.raises(ConfigError, match="other columns: id, probability, and now who, prob"):
        parts.keep(2, ["e"], frame(["e"]).rename(columns={"id": "who"}), VERSION)
    (tmp_path / "out.csv.parts/plan.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Parts(out, "t", 2)
    assert Parts(out, "u", 2, fresh=True).rows_of(0, ["a", "b"]) is None


def test_nothing_to_predict_makes_an_empty_file(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.csv", "t", 2)
    keep(parts, 1)
    parts.finish(1)
    assert (tmp_path / "out.csv").read_bytes() == b"\n"
