"""How arguments are cut by rows, and what cannot be joined again."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from heterofed.compute.workers.rows import check_rows, emptied, filled, split_rows, tensors_of
from heterofed.compute.workers.sharded import spread
from heterofed.compute.workers.worker import Backward, Forward, Model, Worker
from heterofed.errors import ConfigError

Pair = namedtuple("Pair", ["a", "b"])
ROWS = torch.arange(14.0).reshape(7, 2)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 9])
def test_parts_are_the_rows_in_order(ranks: int) -> None:
    whole = torch.ones(3)
    parts = split_rows([ROWS, whole], ranks)
    assert len(parts) == min(ranks, 7)
    assert torch.equal(torch.cat([part[0] for part in parts]), ROWS)
    assert all(part[1] is whole and len(part[0]) for part in parts)


def test_what_holds_no_rows_is_not_cut() -> None:
    assert split_rows([], 3) == [[]]
    assert len(split_rows([torch.tensor(1.0)], 3)) == 1
    assert len(split_rows([torch.empty(0, 2)], 3)) == 1


def test_tensors_are_taken_out_and_put_back() -> None:
    value: Any = ([ROWS, {"x": ROWS + 1}], Pair(ROWS + 2, "name"), 3)
    found = tensors_of(value)
    assert len(found) == 3
    again = filled(emptied(value), found)
    assert type(again[1]) is Pair
    assert again[1].b == "name"
    assert torch.equal(again[0][1]["x"], ROWS + 1)


@pytest.mark.parametrize("outputs", [[], [torch.tensor(1.0)], [torch.ones(6, 2)]])
def test_what_has_other_rows_is_refused(outputs: list[torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="one row per row"):
        check_rows(outputs, 7)


def test_a_worker_computes_as_the_model_does() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, gradient = ROWS.double(), torch.randn(7, 1, dtype=torch.float64)
    worker = Worker(Model(pickle.dumps(model)))
    state = [each.detach().clone() for each in model.parameters()]
    for number in (1, 2):  # the second one has other weights while the first is in flight
        order = Forward(number, ((x,), {}), 1, True, [True] * 4, True, [False], seed=1)
        shifted = [each + number - 1 for each in state]
        (output,) = worker.forward(order, [x, *shifted])
        if number == 1:
            assert torch.equal(output, model(x))
    used, *found = worker.backward(Backward(1), [gradient])
    model(x).backward(gradient)
    assert used.all()
    for each, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(each, parameter.grad)


class Alone:
    ranks = 1


def test_a_copy_of_a_spread_model_computes_by_itself() -> None:
    model: Any = nn.Linear(2, 3)
    spread(model, Alone())  # type: ignore[arg-type]
    plain = model(ROWS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            other.weight.zero_()
        assert torch.equal(other(ROWS), other.bias.expand(7, 3))
        assert torch.equal(model(ROWS), plain)
    with pytest.raises(ConfigError, match="replaced on the object"):
        spread(model, Alone())  # type: ignore[arg-type]
