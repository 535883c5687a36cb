"""A tabular task holds its ids packed, and hooks of a subclass still get sets and lists."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterofed import simulate
from heterofed.compute.packed_ids import PackedIds
from heterofed.hetero_nn.hooks import ids_of
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular.splits import Split
from tests.tabular.people import loans


class OwnSplit(TabularHost):
    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        assert isinstance(id_intersection, set)
        return super().split_dataset(id_intersection)


@pytest.mark.parametrize("stratify", [False, True], ids=["by id", "by label"])
def test_ids_are_packed_at_every_party(tmp_path: Path, stratify: bool) -> None:
    found = []
    for kind in (TabularHost, OwnSplit):
        mine, theirs = loans(200)
        common: dict[str, Any] = {"seed": 0, "results_dir": tmp_path / kind.__name__}
        host = kind(
            "bank",
            mine,
            ids="customer",
            label="defaulted",
            max_rounds=1,
            psi_protocol="ecdh",
            stratify=stratify,
            **common,
        )
        partner = TabularCollaborator("shop", theirs, ids="client", **common)
        simulate(host, [partner], task_id="t")
        assert isinstance(ids_of(host)[0], PackedIds) == (kind is TabularHost)
        assert isinstance(ids_of(partner)[0], PackedIds) == (not stratify)
        assert host.train_ids == partner.train_ids
        assert host.test_ids == sorted({*host.test_ids} - {*host.train_ids})
        assert host.evaluation is not None
        found.append((host.train_ids, host.test_ids, host.evaluation["auc"]))
    assert found[0] == found[1]


def test_a_split_of_packed_ids_holds_no_strings() -> None:
    ids = PackedIds(f"person-{row:012}" for row in range(200_000))
    split = Split(validation=0.1)
    tracemalloc.start()
    try:
        train, validation, test = split.places(ids)
        parts = ids.take(train) + ids.take(np.union1d(validation, test))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(parts) == len(ids)
    named = split.parts(list(ids))
    assert [named.train, named.validation, named.test] == [
        ids.pick(each) for each in (train, validation, test)
    ]
    assert most < 120 * len(ids)  # with strings it is over 200
