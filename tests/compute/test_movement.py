"""A half that does not train is told of after the first round, and one that does is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import simulate
from heterofed.compute.movement import Movement
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, with_settings

Parties = tuple[Any, Any]


def without_graph(party: Any, how: Callable[[Tensor], Tensor]) -> None:
    original = party.iterate_train_feature

    def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for item in original(feature_model, train_ids):
            yield how(item) if isinstance(item, Tensor) else (how(item[0]), item[1])

    party.iterate_train_feature = iterate


def host_detaches_its_own(parties: Parties) -> None:
    without_graph(parties[0], Tensor.detach)


def host_computes_without_gradients(parties: Parties) -> None:
    host = parties[0]
    original = host.iterate_train_feature

    def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        with torch.no_grad():
            yield from original(feature_model, train_ids)

    host.iterate_train_feature = iterate


def loss_without_received_features(parties: Parties) -> None:
    host = parties[0]
    original = host.train_a_batch
    host.train_a_batch = lambda feature_projection, labels: original(
        {
            name: each.detach() if name == "bob" else each
            for name, each in feature_projection.items()
        },
        labels,
    )


def no_backward(parties: Parties) -> None:
    parties[0].train_a_batch = lambda feature_projection, labels: labels.mean()


def half_a_step(parties: Parties) -> None:
    """Of the two optimizers of the Host only one steps."""
    host = parties[0]

    def train(feature_projection: dict[str, Tensor], labels: Tensor) -> None:
        fused = torch.cat(list(feature_projection.values()), dim=1)
        host.infer_optimizer.zero_grad()
        (host.infer_model(fused).squeeze(1) - labels).pow(2).mean().backward()
        host.infer_optimizer.step()

    host.train_a_batch = train


def optimizer_of_another_model(parties: Parties) -> None:
    parties[1].make_feature_optimizer = lambda feature_model: optim.SGD(
        nn.Linear(3, 4).parameters(), lr=0.1
    )


def optimizer_of_another_top(parties: Parties) -> None:
    parties[0].make_infer_optimizer = lambda infer_model: optim.SGD(
        nn.Linear(7, 1).parameters(), lr=0.1
    )


def features_of_another_model(parties: Parties) -> None:
    other = nn.Linear(3, 4)

    def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), 16):
            yield other(rows(train_ids[start : start + 16], 3, 7))

    parties[1].iterate_train_feature = iterate


def nothing_wrong(parties: Parties) -> None:
    pass


def frozen_by_setting(parties: Parties) -> None:
    with_settings(parties[1], is_feature_trainable=False)


CASES: dict[Callable[[Parties], None], set[str]] = {
    host_detaches_its_own: {"alice: no weight of feature_model"},
    host_computes_without_gradients: {"alice: no weight of feature_model"},
    loss_without_received_features: {"bob: no weight of feature_model"},
    no_backward: {
        "alice: no weight of feature_model",
        "alice: no weight of infer_model",
        "bob: no weight of feature_model",
    },
    half_a_step: {"alice: no weight of feature_model"},
    optimizer_of_another_model: {"bob: no weight of feature_model"},
    optimizer_of_another_top: {"alice: no weight of infer_model"},
    features_of_another_model: {"bob: no weight of feature_model"},
    nothing_wrong: set(),
    frozen_by_setting: set(),
}


UNCHANGED = "no weight of feature_model changed"
NO_GRAPH = "what iterate_train_feature yields has no graph"


class Host(TinyHost):
    def make_infer_model(self) -> nn.Module:
        return nn.Linear(7, 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda each: each.__name__)
def test_what_does_not_train_is_told_once(
    case: Callable[[Parties], None],
    home: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parties = (
        Host(tmp_path, leak_report="off", psi_protocol="ecdh"),
        TinyCollaborator(tmp_path, leak_report="off"),
    )
    case(parties)
    with caplog.at_level(logging.WARNING):
        simulate(parties[0], [parties[1]], task_id="moves")
    told = [
        each.getMessage().replace(NO_GRAPH, UNCHANGED).partition(" changed")
        for each in caplog.records
    ]
    assert sorted(text for text, changed, _ in told if changed) == sorted(CASES[case])


STEPS: dict[str, tuple[Callable[[nn.Linear], Any], bool]] = {
    "nothing": (lambda _: None, False),
    "a step without gradients": (lambda m: optim.SGD(m.parameters(), lr=1).step(), False),
    "a rate of zero": (lambda m: _stepped(m, 0.0), True),
    "a step": (lambda m: _stepped(m, 0.1), True),
    "through .data": (lambda m: m.weight.data.add_(1), True),
    "another .data": (lambda m: setattr(m.weight, "data", m.weight.data.clone()), True),
    "one of two": (lambda m: m.bias.detach().add_(1), True),
}


def _stepped(model: nn.Module, rate: float) -> None:
    model(torch.ones(1, 2)).sum().backward()
    optim.SGD(model.parameters(), lr=rate).step()


@pytest.mark.parametrize("name", STEPS)
def test_what_counts_as_a_change(name: str) -> None:
    model = nn.Linear(2, 2)
    movement = Movement(
        {"it": model, "none": None, "empty": nn.Identity(), "lazy": nn.LazyLinear(1)}
    )
    step, moves = STEPS[name]
    step(model)
    assert movement.unmoved() == ([] if moves else ["it"])
