"""Two processes compute a model, also with divided weights, and train what one process does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_

from heterofed.compute.sharded_tensors import own_part
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.sharded import spread
from tests.compute.workers.ranks import party
from tests.compute.workers.test_sharding import both, learning, made, same, train


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with party(2) as connected:
        yield connected


def test_two_processes_divide_a_model(exchange: Exchange) -> None:
    model, plain = both(exchange)
    for each in (model, plain):
        optimizer = optim.Adam(learning(each), lr=0.01, foreach=True)
        train(each, optimizer, lambda weights: clip_grad_norm_(weights, 0.5), rows=(5, 1, 4))
        if each is model:
            own = sum(own_part(one).numel() for one in learning(each))
            assert own == sum(one.numel() for one in learning(each)) / 2
    same(model, plain)
    torch.testing.assert_close(model(torch.ones(3, 3).double()), plain(torch.ones(3, 3).double()))


class Mixed(nn.Module):
    """A net of rows, of further rows, of numbers of rows, and of something for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.table = nn.Linear(3, 2), nn.Embedding(4, 2)

    def forward(self, rows: Tensor, more: dict[str, Tensor], everywhere: Tensor) -> Tensor:
        y: Tensor = self.inner(rows) * more["scale"] + self.table(more["kind"]) @ everywhere
        return y


class Frozen(Mixed):
    """A net that learns nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


@pytest.mark.parametrize("kind", [Mixed, Frozen])
@pytest.mark.parametrize("rows", [5, 1])
def test_what_goes_into_a_model_may_take_a_gradient(
    kind: type[nn.Module], rows: int, exchange: Exchange
) -> None:
    model, plain, front = made(kind), made(kind), made(lambda: nn.Linear(3, 3))
    spread(model, exchange)
    torch.manual_seed(3)
    x, scale, everywhere = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((rows, 3), (rows, 1), (2, 2))
    )
    found: list[list[Tensor | None]] = []
    for each in (model, plain):
        weights: list[Any] = [x, scale, everywhere, *front.parameters(), *each.parameters()]
        for weight in weights:
            weight.grad = None
        for _ in range(2):  # gradients add up over two passes
            kinds = {"scale": scale, "kind": torch.arange(rows) % 4}
            each(front(x), kinds, everywhere).square().sum().backward()
        found.append([weight.grad for weight in weights])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
