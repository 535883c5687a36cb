"""A tabular Host sends gradients before its step, unless something could change them after that."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from heterofed.hetero_nn.hooks import half_engine
from heterofed.privacy.gradient_defences import MaxNorm
from heterofed.tabular import TabularHost
from tests.tabular.people import loans


class Clips(TabularHost):
    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Tensor:
        return super().train_a_batch(feature_projection, labels)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (TabularHost, {}, "once"),
        (TabularHost, {"early_gradients": False}, False),
        (TabularHost, {"gradient_defence": MaxNorm()}, False),
        (TabularHost, {"fusion": "masked_sum", "collaborators": 2}, False),
        (Clips, {}, False),
    ],
    ids=["plain", "chosen", "defence", "sum", "own step"],
)
def test_gradients_are_sent_once(
    kind: type[TabularHost], settings: dict[str, Any], expected: object
) -> None:
    bank, _ = loans(200)
    host = kind("bank", bank, ids="customer", label="defaulted", **settings)
    assert half_engine(host).settings.early_gradients == expected
