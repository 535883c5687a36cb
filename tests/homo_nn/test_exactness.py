"""Averages are those of one process, whatever the strategy, and masks change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heterofed import ConfigError, simulate
from heterofed.homo_nn import FedAdam, FedAvg, FedAvgM, FedProx, FedSGD
from heterofed.homo_nn.sampling import drawn
from heterofed.protocol.plan import Averaging, Plan
from tests.homo_nn.tiny import Gradients, Plain, host, loss_of, model, rows, run, weights_of

COUNTS = (8, 5, 3)


def parties(results: Path, kind: type = Plain, **settings: Any) -> list[Any]:
    return [
        kind(results, f"p{number}", number, count=count, **settings)
        for number, count in enumerate(COUNTS)
    ]


@pytest.fixture
def start() -> nn.Linear:
    torch.manual_seed(0)
    return model()


def flat(made: nn.Module) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in made.parameters()])


def put(made: nn.Module, numbers: Tensor) -> None:
    nn.utils.vector_to_parameters(numbers, made.parameters())


def trained_alone(
    start: nn.Module, steps: int, mu: float = 0.0, momentum: float = 0.0
) -> Callable[[Tensor], list[Tensor]]:
    """A round of each party in plain torch; optimizers live on from round to round."""
    models = [copy.deepcopy(start) for _ in COUNTS]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=momentum) for m in models]

    def train(shared: Tensor) -> list[Tensor]:
        for number, (made, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            put(made, shared.clone())
            for _ in range(steps):
                optimizer.zero_grad()
                pull = (
                    mu
                    / 2
                    * sum(
                        (p - q).square().sum()
                        for p, q in zip(made.parameters(), _like(made, shared), strict=True)
                    )
                )
                loss = loss_of(made, *rows(number, COUNTS[number])) + pull
                loss.backward()
                optimizer.step()
        return [flat(made) for made in models]

    return train


def _like(made: nn.Module, numbers: Tensor) -> Sequence[Tensor]:
    sizes = [each.numel() for each in made.parameters()]
    parts = torch.split(numbers, sizes)
    return [part.reshape(p.shape) for part, p in zip(parts, made.parameters(), strict=True)]


def mean(some: list[Tensor], weights: Sequence[float] = COUNTS) -> Tensor:
    return sum(
        (w * each for w, each in zip(weights, some, strict=True)),
        torch.zeros(4, dtype=torch.float64),
    ) / sum(weights)


def simulated(
    tmp_path: Path,
    start: nn.Module,
    kind: type = Plain,
    steps: int = 3,
    momentum: float = 0.0,
    **settings: Any,
) -> Tensor:
    first = host(tmp_path, len(COUNTS), 4, **settings)
    first.make_model = lambda: copy.deepcopy(start)  # type: ignore[method-assign]
    done = run(first, parties(tmp_path, kind, steps=steps, momentum=momentum))
    found = weights_of(done)
    for name in ("p0", "p1", "p2"):
        assert torch.equal(weights_of(done, name), found)
    return found


@pytest.mark.parametrize("secure", [False, True])
def test_fedavg_is_the_mean_by_rows(tmp_path: Path, start: nn.Module, secure: bool) -> None:
    train, shared = trained_alone(start, 3, momentum=0.5), flat(start)
    for _ in range(4):
        shared = mean(train(shared))
    found = simulated(tmp_path, start, momentum=0.5, secure_aggregation=secure)
    torch.testing.assert_close(found, shared, rtol=0, atol=1e-8 if secure else 1e-12)


def test_weights_may_count_alike(tmp_path: Path, start: nn.Module) -> None:
    train, shared = trained_alone(start, 3), flat(start)
    for _ in range(4):
        shared = mean(train(shared), (1, 1, 1))
    found = simulated(tmp_path, start, weighting="equal")
    torch.testing.assert_close(found, shared, rtol=0, atol=1e-12)


def test_fedprox_pulls_to_the_start_of_the_round(tmp_path: Path, start: nn.Module) -> None:
    train, shared = trained_alone(start, 3, mu=0.7), flat(start)
    for _ in range(4):
        shared = mean(train(shared))
    found = simulated(tmp_path, start, strategy=FedProx(0.7))
    torch.testing.assert_close(found, shared, rtol=0, atol=1e-12)


@pytest.mark.parametrize("secure", [False, True])
def test_fedsgd_is_gradient_descent_on_the_joined_rows(
    tmp_path: Path, start: nn.Module, secure: bool
) -> None:
    joined, both = copy.deepcopy(start), [rows(n, count) for n, count in enumerate(COUNTS)]
    x, y = (torch.cat(each) for each in zip(*both, strict=True))
    optimizer = torch.optim.SGD(joined.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss_of(joined, x, y).backward()
        optimizer.step()
    found = simulated(tmp_path, start, Gradients, strategy=FedSGD(0.1), secure_aggregation=secure)
    torch.testing.assert_close(found, flat(joined), rtol=0, atol=1e-9 if secure else 1e-12)


def test_momentum_at_the_host(tmp_path: Path, start: nn.Module) -> None:
    train, shared, v = trained_alone(start, 3), flat(start), torch.zeros(4, dtype=torch.float64)
    for _ in range(4):
        v = 0.9 * v + mean(train(shared)) - shared
        shared = shared + 0.5 * v
    found = simulated(tmp_path, start, strategy=FedAvgM(0.5, 0.9))
    torch.testing.assert_close(found, shared, rtol=0, atol=1e-12)


def test_adam_at_the_host(tmp_path: Path, start: nn.Module) -> None:
    train, shared = trained_alone(start, 3), flat(start)
    m, v = torch.zeros(4, dtype=torch.float64), torch.full((4,), 1e-6, dtype=torch.float64)
    for _ in range(4):
        change = mean(train(shared)) - shared
        m, v = 0.9 * m + 0.1 * change, 0.99 * v + 0.01 * change**2
        shared = shared + 0.01 * m / (v.sqrt() + 1e-3)
    found = simulated(tmp_path, start, strategy=FedAdam())
    torch.testing.assert_close(found, shared, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_one_full_step_of_fedavg_is_fedsgd(tmp_path: Path, start: nn.Module) -> None:
    averaged = simulated(tmp_path / "a", start, steps=1, strategy=FedAvg())
    stepped = simulated(tmp_path / "b", start, Gradients, strategy=FedSGD(0.1))
    torch.testing.assert_close(averaged, stepped, rtol=0, atol=1e-12)


def test_parties_are_drawn_alike_and_all_get_the_average(tmp_path: Path, start: nn.Module) -> None:
    first = host(tmp_path, 3, 4, fraction=0.34)
    first.make_model = lambda: copy.deepcopy(start)  # type: ignore[method-assign]
    made = parties(tmp_path)
    asked: list[tuple[int, str]] = []

    def watch(party: Any) -> None:
        train = party.train_a_round

        def watched(model: nn.Module) -> Any:
            asked.append((party.current_round, party.feature_key))
            return train(model)

        party.train_a_round = watched

    for each in made:
        watch(each)
    done = run(first, made)
    assert len(asked) == 4
    plan = first._heterofed.run.plan  # type: ignore[union-attr]
    assert sorted(asked) == [(n, name) for n in range(1, 5) for name in drawn(plan, n)]
    assert len({name for _, name in asked}) > 1
    assert torch.equal(weights_of(done, "p2"), weights_of(done, "p0"))


def test_a_sum_in_secret_has_two_parties_at_least() -> None:
    names = tuple(f"p{number}" for number in range(10))
    plan = Plan(
        host="h", collaborators=names, averaging=Averaging(fraction=0.01), fusion="masked_sum"
    )
    draws = {drawn(plan, number) for number in range(1, 40)}
    assert {len(each) for each in draws} == {2}
    assert len(draws) > 10


def test_buffers_are_averaged_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    class Normed(Plain):
        def make_model(self) -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(3, dtype=torch.float64), model())

    done = run(host(tmp_path, 3, 2), parties(tmp_path, Normed))
    state = torch.load(done.results["head"].models["model"], weights_only=True)
    assert state["0.num_batches_tracked"].dtype == torch.int64
    assert state["0.num_batches_tracked"] == 2
    normed = nn.Sequential(nn.BatchNorm1d(3, dtype=torch.float64), model())
    normed.load_state_dict(state)


def test_baselines_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in which parties have different columns"):
        simulate(host(tmp_path, 1), [Plain(tmp_path, "a", 0)], task_id="t", baselines=["local"])
    assert not (tmp_path / "t").exists()
