"""Few different tags become a number each; many stay tags."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from heterofed.tabular.kinds import Column
from heterofed.tabular.prepare import Preparation, Scale, SpreadTags, Step, Tags, choose

COLUMNS = [Column(name="tags", kind="tags"), Column(name="x", kind="numeric")]


def table(*lists: str | None) -> pd.DataFrame:
    return pd.DataFrame({"tags": list(lists), "x": [float(at) for at in range(len(lists))]})


def test_a_number_for_each_tag() -> None:
    frame = table("a:2 b:-1", "a:4;b:3", "c a:6", None, "rare:9")
    steps: list[Step] = [SpreadTags(), Scale(how="none")]
    fitted = Preparation.fit(frame, COLUMNS, steps)
    assert fitted.shape.dense == ("x", "tags: a", "tags: b")
    assert not fitted.shape.bags
    found = fitted.apply(frame).dense[:, 1:]
    assert found.tolist() == [[2, -1], [4, 3], [6, 0], [0, 0], [0, 0]]
    later = fitted.apply(table("a:1 a:1 new:5", "new")).dense[:, 1:]
    assert later.tolist() == [[2, 0], [0, 0]]


def test_many_tags_are_left_to_the_step_for_them() -> None:
    frame = table(*(f"t{at % 5}:1 s{at % 5}" for at in range(20)))
    fitted = Preparation.fit(frame, COLUMNS, [SpreadTags(most=9), Tags(), Scale()])
    assert list(fitted.shape.bags) == ["tags"]
    fitted = Preparation.fit(frame, COLUMNS, [SpreadTags(most=10), Tags(), Scale()])
    assert not fitted.shape.bags
    assert len(fitted.shape.dense) == 11


@pytest.mark.parametrize("linear", [False, True])
def test_tags_are_prepared_like_numbers_by_themselves(linear: bool) -> None:
    frame = table(*(f"a:{at} b:{at % 3}" for at in range(30)))
    (only,) = (each for each in COLUMNS if each.kind == "tags")
    fitted = Preparation.fit(frame[["tags"]], [only], choose([only], linear=linear))
    dense = fitted.apply(frame[["tags"]]).dense
    assert fitted.shape.dense == ("tags: a", "tags: b")
    assert torch.allclose(dense.mean(dim=0), torch.zeros(2), atol=0.2)
