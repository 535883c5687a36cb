"""Weights kept for backward."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from heterofed.compute.staleness import stashed_weights

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.5, foreach=False),
    "sgd foreach": lambda p: optim.SGD(p, lr=0.1, momentum=0.5, foreach=True),
    "sgd fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.5, fused=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, foreach=False),
    "adam foreach": lambda p: optim.Adam(p, lr=0.01, foreach=True),
    "adam fused": lambda p: optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, foreach=False),
    "adamw foreach": lambda p: optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}


class Net(nn.Module):
    """Operations that save weights in different ways: as they are, transposed, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.hidden = nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.ones(12))
        self.out = nn.Linear(12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.conv(x))).flatten(1)
        h = torch.tanh(self.hidden(h)) * self.scale
        h = h + torch.tanh(self.hidden(h))  # tied
        y: Tensor = self.out(h) + h @ self.out.weight.t().square()
        return y


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(6, 2, 6, generator=draw, dtype=torch.float64),
            torch.randn(6, 4, generator=draw, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def made(optimizer: str) -> tuple[Net, optim.Optimizer]:
    torch.manual_seed(3)
    net = Net().double()
    return net, OPTIMIZERS[optimizer](net.parameters())


def kept(optimizer: str, steps: int) -> Net:
    """Forwards `steps` ahead of the gradients, in one graph each."""
    net, stepping = made(optimizer)
    in_flight: deque[tuple[Tensor, Tensor]] = deque()

    def step() -> None:
        output, gradient = in_flight.popleft()
        stepping.zero_grad()
        torch.autograd.backward(output, gradient)
        stepping.step()

    for x, gradient in batches(12):
        with stashed_weights(net.parameters()):
            in_flight.append((net(x), gradient))
        if len(in_flight) > steps:
            step()
    while in_flight:
        step()
    return net


def stashed(optimizer: str, steps: int) -> Net:
    """The same by copies of all weights: no graph ever sees weights that change."""
    net, stepping = made(optimizer)
    in_flight: deque[tuple[dict[str, Tensor], Tensor, Tensor]] = deque()

    def step() -> None:
        copies, output, gradient = in_flight.popleft()
        torch.autograd.backward(output, gradient)
        for name, parameter in net.named_parameters():
            parameter.grad = copies[name].grad
        stepping.step()

    for x, gradient in batches(12):
        copies = {
            name: each.detach().clone().requires_grad_() for name, each in net.named_parameters()
        }
        in_flight.append((copies, torch.func.functional_call(net, copies, x), gradient))
        if len(in_flight) > steps:
            step()
    while in_flight:
        step()
    return net


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_kept_weights_give_the_gradients_of_stashed_ones(optimizer: str, steps: int) -> None:
    ours, theirs = kept(optimizer, steps).state_dict(), stashed(optimizer, steps).state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-12, atol=1e-12)
    exact = kept(optimizer, 0).state_dict()
    assert not torch.allclose(ours["out.weight"], exact["out.weight"], rtol=1e-6)


def test_without_keeping_torch_refuses_or_lies() -> None:
    net, stepping = made("sgd")
    x, gradient = batches(1)[0]
    output = net(x)
    torch.autograd.backward(net(x), gradient)
    stepping.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(output, gradient)


def test_other_tensors_changed_in_place_are_an_error_as_ever() -> None:
    weight = torch.randn(3, requires_grad=True)
    with stashed_weights([weight]):
        output = (weight * 2).exp()
        used = output * output
    with torch.no_grad():
        output.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(used.sum())


def test_a_weight_saved_twice_is_copied_once() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    x = torch.randn(2, 4, requires_grad=True)
    before = weight.detach().clone()
    with stashed_weights([weight]):
        y = x @ weight
        z = y @ weight
    saved = [y.grad_fn._saved_mat2, z.grad_fn._saved_mat2]  # type: ignore[union-attr]
    assert saved[0].data_ptr() == saved[1].data_ptr() != weight.data_ptr()
    with torch.no_grad():
        weight.zero_()
    torch.autograd.backward(z.sum())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(2, 4) @ before.t() @ before.t())


@pytest.mark.slow
def test_graphs_do_not_outlive_their_tensors() -> None:
    weight = torch.randn(3, 3, requires_grad=True)
    with stashed_weights([weight]):
        hidden = torch.tanh(torch.randn(2, 3) @ weight)  # saves what it gives
        loss = hidden.exp().sum()
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    alive = weakref.ref(hidden)
    del hidden, loss
    gc.collect()
    assert alive() is None


def test_gradients_of_gradients_go_through_kept_weights() -> None:
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def penalty() -> Tensor:
        outputs = torch.tanh(inputs @ weight).sum()
        (slope,) = torch.autograd.grad(outputs, inputs, create_graph=True)
        return slope.square().sum()

    (expected,) = torch.autograd.grad(penalty(), weight)
    with stashed_weights([weight]):
        kept = penalty()
    (found,) = torch.autograd.grad(kept, weight)
    torch.testing.assert_close(found, expected)
