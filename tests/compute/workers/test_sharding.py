"""Several processes divide the weights of a model among them, and train those of one process."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.checkpoint import checkpoint

from heterofed import leave_out_frozen_weights
from heterofed.compute.movement import Movement
from heterofed.compute.sharded_tensors import is_sharded, own_part, whole
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.held import HeldTensors, Release
from heterofed.compute.workers.mirror import mirror_here
from heterofed.compute.workers.sharding import divide, keep_whole
from heterofed.errors import ConfigError
from heterofed.runs.checkpoint_format import Snapshot, decode, encode, put_back, state_of
from heterofed.runs.frozen_values import freeze, thaw
from tests.compute.workers.ranks import party

pytestmark = pytest.mark.long  # `test_two_processes.py` is quick

WIDTH = 6
ROWS = (8, 5, 1, 3, 8, 2)
"""The numbers of rows of batches: also fewer than there are ranks."""

Make = Callable[[Any], optim.Optimizer]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(torch.tanh(self.first(x)))
        return y


class Net(nn.Module):
    """A small net with blocks, a buffer, and a weight without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for each in self.blocks:
            x = checkpoint(each, x, use_reentrant=False) if x.shape[0] == 5 else each(x)
        y: Tensor = self.leave(self.frozen(x)) * self.scale
        return y


@pytest.fixture(scope="module", params=[2, 4])
def exchange(request: pytest.FixtureRequest) -> Iterator[Exchange]:
    with party(request.param) as connected:
        yield connected


def made(kind: Callable[[], nn.Module] = Net) -> Any:
    torch.manual_seed(0)
    return kind().double()


def both(exchange: Exchange, kind: Callable[[], nn.Module] = Net) -> tuple[Any, Any]:
    """A divided model, and the same one in this process alone."""
    model, plain = made(kind), made(kind)
    divide(model, exchange)
    return model, plain


def sgd(weights: Any) -> optim.Optimizer:
    return optim.SGD(weights, lr=0.1, momentum=0.9)


def adam(weights: Any) -> optim.Optimizer:
    return optim.Adam(weights, lr=0.01, weight_decay=0.1)


def adamw(weights: Any) -> optim.Optimizer:
    return optim.AdamW(weights, lr=0.01, amsgrad=True, foreach=True)


def learning(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.requires_grad]


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    change: Callable[[Any], Any] = lambda weights: None,
    rows: tuple[int, ...] = ROWS,
) -> None:
    generator = torch.Generator().manual_seed(1)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for number, count in enumerate(rows):
        x = torch.randn(count, 3, dtype=torch.float64, generator=generator)
        loss = model(x).square().sum() / count
        optimizer.zero_grad(set_to_none=number % 2 == 0)
        loss.backward()
        change(learning(model))
        optimizer.step()
        schedule.step()


def same(model: nn.Module, plain: nn.Module) -> None:
    ours, theirs = model.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    for name, each in ours.items():
        torch.testing.assert_close(each, theirs[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("make", [sgd, adam, adamw])
def test_the_weights_of_one_process_are_trained(exchange: Exchange, make: Make) -> None:
    model, plain = both(exchange)
    for each in (model, plain):
        train(each, make(learning(each)))
    same(model, plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: clip_grad_norm_(weights, 0.5),
        lambda weights: clip_grad_norm_(weights, 0.5, norm_type=1),
        lambda weights: clip_grad_value_(weights, 0.01),
        lambda weights: [each.grad.mul_(2) for each in weights],
    ],
)
def test_hooks_may_change_gradients(exchange: Exchange, change: Any) -> None:
    model, plain = both(exchange)
    for each in (model, plain):
        train(each, adam(learning(each)), change)
    same(model, plain)


def test_gradients_add_up_over_backward_passes(exchange: Exchange) -> None:
    model, plain = both(exchange)
    x = torch.linspace(-1, 1, 21, dtype=torch.float64).reshape(7, 3)
    for each in (model, plain):
        optimizer = sgd(learning(each))
        first, second = each(x), each(x[:1] + 1)
        with torch.no_grad():
            each.eval()(x)
        each.train()
        (first.sum() + second.square().sum()).backward()
        out = each(x)
        out.sum().backward(retain_graph=True)
        out.square().sum().backward()
        optimizer.step()
    same(model, plain)


def test_a_loss_may_have_a_term_of_the_weights(exchange: Exchange) -> None:
    model, plain = both(exchange)
    x = torch.ones(4, 3, dtype=torch.float64)
    for each in (model, plain):
        optimizer = sgd(each.enter.parameters())
        # With four ranks, the division of six rows is uneven.
        (each(x).sum() + each.enter.weight.square().sum()).backward()
        optimizer.step()
    same(model, plain)


def test_a_scaler_sees_gradients_of_every_rank(exchange: Exchange) -> None:
    model, plain = both(exchange)
    x = torch.ones(8, 3, dtype=torch.float64)
    for each in (model, plain):
        optimizer, scaler = sgd(learning(each)), torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in (1.0, float("inf"), 2.0):
            optimizer.zero_grad()
            # Only the last weight of the last layer overflows, which the last rank has.
            scaler.scale((each(x)[:, 1] * factor).sum()).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(learning(each), 1.0)
            scaler.step(optimizer)
            scaler.update()
    same(model, plain)


def test_each_rank_has_its_part_of_everything(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made()
    numbers = sum(each.numel() for each in learning(model))
    divide(model, exchange)
    optimizer = adam(learning(model))
    train(model, optimizer)
    parts = dict.fromkeys(range(exchange.ranks), 0)
    answer = exchange.answer

    def counted(rank: int) -> list[Tensor]:
        came = answer(rank)
        parts[rank] += sum(each.numel() for each in came)
        return came

    monkeypatch.setattr(exchange, "answer", counted)
    for weight in learning(model):
        state = optimizer.state[weight]
        for each in (weight, weight.grad, state["exp_avg"], state["exp_avg_sq"]):
            assert is_sharded(each)
            parts[0] += own_part(each).numel()
            whole(each)
    assert sum(parts.values()) == 4 * numbers
    # Rows are not cut, so a part may have a row more: one of the weight and one of the bias.
    most = 4 * (numbers / exchange.ranks + len(learning(model)) * WIDTH)
    assert max(parts.values()) <= most


def test_nothing_is_held_for_longer_than_it_is_used(exchange: Exchange, tmp_path: Path) -> None:
    model, _ = both(exchange)
    optimizer = adam(learning(model))
    held = []
    for number in range(4):
        train(model, optimizer, clip_all, rows=(8, 3))
        mirror_here().flush()
        exchange.send(1, Counting(tmp_path / str(number)))
        whole(model.enter.bias)  # rank 1 has obeyed the order
        held.append(int((tmp_path / str(number)).read_text()))
    assert held[1:] == held[1:2] * 3, held
    # A weight has a gradient and two moments.
    most = len(list(model.parameters())) + 3 * len(learning(model))
    assert most <= held[-1] <= most + 3


class Counting:
    """An order that writes how many tensors the rank that gets it holds for rank 0."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return write_count, (self.path,)


def write_count(path: Path) -> Release:
    found = [each for each in gc.get_objects() if isinstance(each, HeldTensors)]
    newest = max(found, key=lambda each: max(each._tensors))
    path.write_text(str(len(newest._tensors)))
    return Release([])


def clip_all(weights: Any) -> None:
    clip_grad_norm_(weights, 0.5)


def test_state_goes_to_files_and_comes_back_whole(exchange: Exchange) -> None:
    model, plain = both(exchange)
    ours, theirs = adam(learning(model)), adam(learning(plain))
    keep_whole(ours)
    train(model, ours)
    train(plain, theirs)
    by_ranks = encode(Snapshot(1, states=states_of(model, ours)))
    by_one = encode(Snapshot(1, states=states_of(plain, theirs)))
    # One process takes up what several have written, and the other way round.
    for at_one, at_ranks in [(by_ranks, by_one), (by_one, by_ranks)]:
        alone, divided = made(), made()
        divide(divided, exchange)
        for each, content in ((alone, at_one), (divided, at_ranks)):
            optimizer = adam(learning(each))
            if each is divided:
                keep_whole(optimizer)
            saved = decode(content).states
            put_back("feature_model", each, saved["feature_model"])
            put_back("feature_optimizer", optimizer, saved["feature_optimizer"])
            train(each, optimizer)
        same(divided, alone)


def states_of(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any]:
    return {"feature_model": state_of(model), "feature_optimizer": state_of(optimizer)}


def test_a_weight_in_the_extra_state_is_whole(exchange: Exchange) -> None:
    model, plain = both(exchange)
    content = encode(Snapshot(1, extra={"mine": [model.enter.weight]}))
    (found,) = decode(content).extra["mine"]
    assert torch.equal(found, plain.enter.weight)


def test_a_state_of_a_hook_comes_back(exchange: Exchange) -> None:
    model, _ = both(exchange)
    mean = {name: each.detach().clone() for name, each in model.named_parameters()}
    frozen = freeze(mean)
    with torch.no_grad():
        for name, each in model.named_parameters():
            mean[name].lerp_(each + 1, 0.5)
            each.grad = torch.zeros_like(each) if each.requires_grad else None
    thaw(frozen, mean)
    for name, each in model.named_parameters():
        assert is_sharded(mean[name])
        assert torch.equal(whole(mean[name]), whole(each.detach()))


def test_frozen_weights_are_left_out(exchange: Exchange) -> None:
    model = leave_out_frozen_weights(made())
    plain = leave_out_frozen_weights(made())
    divide(model, exchange)
    same(model, plain)
    assert not any(name.startswith("frozen.") for name in model.state_dict())
    model.load_state_dict(plain.state_dict(), strict=False)


def test_a_model_that_does_not_move_is_noticed(exchange: Exchange) -> None:
    model, _ = both(exchange)
    movement = Movement({"feature_model": model})
    assert movement.unmoved() == ["feature_model"]
    train(model, sgd(learning(model)), rows=(4,))
    assert not movement.unmoved()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)])
        self.blocks[2].weight = self.blocks[0].weight

    def forward(self, x: Tensor) -> Tensor:
        for each in (*self.blocks, self.blocks[1]):
            x = each(x)
        return x


def test_weights_may_be_tied_and_blocks_used_twice(exchange: Exchange) -> None:
    model, plain = both(exchange, Tied)
    for each in (model, plain):
        train(each, sgd(each.parameters()))
    same(model, plain)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.temperature


@pytest.mark.parametrize(
    ("kind", "match"),
    [(Scalar, "temperature is a single number"), (lambda: nn.LazyLinear(2), "no shape yet")],
)
def test_weights_that_cannot_be_divided(
    exchange: Exchange, kind: Callable[[], nn.Module], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        divide(kind(), exchange)


@pytest.mark.parametrize(
    ("misuse", "match"),
    [
        (lambda model, x: model(x.requires_grad_()), "takes a gradient"),
        (lambda model, x: model.enter.weight.full_tensor(), "state_dict"),
        (lambda model, x: nn.init.normal_(model.enter.weight), "random numbers"),
        (lambda model, x: torch.zeros(6, 3).double().add_(model.enter.weight), "whole tensor"),
    ],
)
def test_a_misuse_is_refused_and_the_model_still_works(
    exchange: Exchange, misuse: Any, match: str
) -> None:
    model, plain = both(exchange)
    x = torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(ConfigError, match=match):
        misuse(model, x.clone())
    torch.testing.assert_close(model(x), plain(x))


def test_a_part_of_a_model_is_no_copy(exchange: Exchange) -> None:
    for kind in (Net, lambda: nn.Linear(3, 2)):
        model, _ = both(exchange, kind)
        with pytest.raises((ConfigError, AssertionError), match=r"state.dict"):
            copy.deepcopy(model)


def test_a_part_of_a_model_is_not_called_alone(exchange: Exchange) -> None:
    model = made()
    divide(model, exchange)
    with pytest.raises(ConfigError, match="a part of the feature model"):
        model.blocks[0](torch.ones(4, WIDTH).double())


def test_an_operation_that_fails_everywhere_may_be_caught(exchange: Exchange) -> None:
    model, plain = both(exchange)
    unused = model.enter.weight.detach() * 2
    del unused  # the other ranks are told to forget it with the next operation
    with pytest.raises(RuntimeError):
        model.enter.weight @ model.enter.weight
    for each in (model, plain):
        train(each, sgd(learning(each)))
    same(model, plain)


@pytest.mark.parametrize("again", ["twice", "after a step"])
def test_a_graph_that_is_of_no_use_is_refused(exchange: Exchange, again: str) -> None:
    model, _ = both(exchange)
    optimizer = sgd(learning(model))
    first = model(torch.ones(4, 3, dtype=torch.float64)).sum()
    if again == "twice":
        first.square().backward()
    else:
        model(torch.ones(4, 3, dtype=torch.float64)).sum().backward()
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"second time|modified by an inplace"):
        first.backward()
