"""Features made before they are asked for are noticed, at both roles; what only looks so is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heterofed import simulate
from heterofed.compute.freshness import Freshness
from heterofed.errors import FeatureError
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, with_settings

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

Hook = Callable[[Any, Any, list[Tensor]], Any]


def deep(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs))


# -- hooks that compute ahead --------------------------------------------------------------------


def a_list(party: Any, model: Any, parts: list[Tensor]) -> Any:
    return [model(each) for each in parts]


def one_ahead(party: Any, model: Any, parts: list[Tensor]) -> Any:
    before = None
    for each in parts:
        features = model(each)
        if before is not None:
            yield before
        before = features
    yield before


def a_queue(party: Any, model: Any, parts: list[Tensor]) -> Any:
    waiting: deque[Tensor] = deque()
    for each in parts:
        waiting.append(model(each))
        if len(waiting) > 2:
            yield waiting.popleft()
    yield from waiting


def all_at_once(party: Any, model: Any, parts: list[Tensor]) -> Any:
    yield from model(torch.cat(parts)).split([len(each) for each in parts])


def kept_from_the_first_round(party: Any, model: Any, parts: list[Tensor]) -> Any:
    if not hasattr(party, "cache"):
        party.cache = []
        for each in parts:
            party.cache.append(model(each))
            yield party.cache[-1]
    else:
        yield from party.cache


def the_same_again(party: Any, model: Any, parts: list[Tensor]) -> Any:
    for each in parts:
        features = model(each)
        for _ in range(2):
            yield features


def made_late_from_early(party: Any, model: Any, parts: list[Tensor]) -> Any:
    hidden = [model[0](each) for each in parts]
    for each in hidden:
        yield model[2](model[1](each))


AHEAD: list[Hook] = [
    a_list,
    one_ahead,
    a_queue,
    all_at_once,
    kept_from_the_first_round,
    made_late_from_early,
]


# -- hooks that do not ---------------------------------------------------------------------------


def as_asked(party: Any, model: Any, parts: list[Tensor]) -> Any:
    for each in parts:
        yield model(each)


def an_iterator(party: Any, model: Any, parts: list[Tensor]) -> Any:
    return map(model, parts)


def checkpointed(party: Any, model: Any, parts: list[Tensor]) -> Any:
    for number, each in enumerate(parts):
        yield checkpoint(model, each.requires_grad_(), use_reentrant=bool(number % 2))


def frozen_trunk_ahead(party: Any, model: Any, parts: list[Tensor]) -> Any:
    """A trunk whose weights no step changes may be computed whenever, graph or not."""
    model[0].requires_grad_(False)
    hidden = [model[0](each.requires_grad_()) for each in parts]
    for each in hidden:
        yield model[2](model[1](each))


def weights_changed_within(party: Any, model: Any, parts: list[Tensor]) -> Any:
    for each in parts:
        with torch.no_grad():
            model[0].weight.clamp_(-1, 1)
        yield model(each)


def held_for_long(party: Any, model: Any, parts: list[Tensor]) -> Any:
    party.held = []
    for each in parts:
        party.held.append(model(each))
        yield party.held[-1]


def in_another_thread(party: Any, model: Any, parts: list[Tensor]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        for each in parts:
            yield pool.submit(model, each).result()


def without_graph(party: Any, model: Any, parts: list[Tensor]) -> Any:
    with torch.no_grad():
        features = [model(each) for each in parts]
    yield from features


def fresh_model_each_time(party: Any, model: Any, parts: list[Tensor]) -> Any:
    for each in parts:
        yield torch.func.functional_call(model, dict(model.named_parameters()), (each,))


FRESH: list[Hook] = [
    as_asked,
    an_iterator,
    checkpointed,
    frozen_trunk_ahead,
    weights_changed_within,
    held_for_long,
    in_another_thread,
    without_graph,
    fresh_model_each_time,
]


class Host(TinyHost):
    batch = 8

    def __init__(self, folder: Path, hook: Hook, **settings: Any) -> None:
        super().__init__(folder, psi_protocol="ecdh", leak_report="off", **settings)
        self.hook = hook

    def make_feature_model(self) -> nn.Module:
        return deep(2, 3)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
        labels: list[Tensor] = []
        inputs: list[Tensor] = []
        for columns, truth in super().iterate_train_feature(lambda each: each, train_ids):
            inputs.append(columns)
            labels.append(truth)
        features = self.hook(self, feature_model, inputs)
        return _beside(features, labels)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from TinyHost.iterate_train_feature(self, feature_model, test_ids)


def _beside(features: Any, labels: list[Tensor]) -> Any:
    if isinstance(features, list):
        return list(zip(features, labels, strict=True))
    return zip(features, labels, strict=False)


class Collaborator(TinyCollaborator):
    batch = 8

    def __init__(self, folder: Path, hook: Hook) -> None:
        super().__init__(folder, leak_report="off")
        self.hook = hook

    def make_feature_model(self) -> nn.Module:
        return deep(3, 4)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
        starts = range(0, len(train_ids), self.batch)
        parts = [rows(train_ids[start : start + self.batch], 3, 7) for start in starts]
        return self.hook(self, feature_model, parts)

    def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
        yield from TinyCollaborator.iterate_train_feature(self, feature_model, test_ids)


@pytest.mark.parametrize("role", ["host", "collaborator"])
@pytest.mark.parametrize("hook", AHEAD, ids=lambda each: each.__name__)
def test_features_made_ahead_are_refused(role: str, hook: Hook, tmp_path: Path) -> None:
    host = Host(tmp_path, hook if role == "host" else as_asked)
    other = Collaborator(tmp_path, hook if role == "collaborator" else as_asked)
    with pytest.raises((FeatureError, RuntimeError)) as caught:
        simulate(host, [other], task_id="fresh")
    words = str(caught.value) + " ".join(caught.value.__notes__)
    assert "iterate_train_feature" in words
    assert "has to call feature_model once" in words or "computed before the last step" in words
    if hook is not kept_from_the_first_round:  # there torch itself may see the second walk first
        assert f"iterate_train_feature of {'alice' if role == 'host' else 'bob'}" in words


@pytest.mark.parametrize("hook", FRESH, ids=lambda each: each.__name__)
@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_fresh_is_let_through(hook: Hook, steps: int, tmp_path: Path) -> None:
    if hook in (checkpointed, in_another_thread) and steps:
        pytest.skip("staleness keeps no weights for a second forward, or for another thread")
    host = Host(tmp_path, hook if hook is not without_graph else as_asked, max_staleness=steps)
    simulate(host, [Collaborator(tmp_path, hook)], task_id="fresh")
    assert host.current_round == 2


@pytest.mark.parametrize("hook", [a_list, one_ahead], ids=lambda each: each.__name__)
def test_more_ahead_than_was_asked_for_is_refused(hook: Hook, tmp_path: Path) -> None:
    host = Host(tmp_path, as_asked, max_staleness=1)
    with pytest.raises((FeatureError, RuntimeError)) as caught:
        simulate(host, [Collaborator(tmp_path, hook)], task_id="fresh")
    assert "iterate_train_feature" in str(caught.value) + " ".join(caught.value.__notes__)


def test_frozen_parties_may_compute_ahead(tmp_path: Path) -> None:
    class Frozen(Collaborator):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder, a_list)
            with_settings(self, is_feature_trainable=False)

    simulate(Host(tmp_path, as_asked), [Frozen(tmp_path)], task_id="fresh")


def test_accumulating_without_a_step_may_compute_ahead(tmp_path: Path) -> None:
    class Accumulating(Collaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            torch.autograd.backward(features, gradients)

        def on_round_end(self) -> None:
            self.feature_optimizer.step()
            self.feature_optimizer.zero_grad()

    host = Host(tmp_path, as_asked)
    simulate(host, [Accumulating(tmp_path, a_list)], task_id="fresh")
    assert host.current_round == 2


def test_weights_that_a_model_gets_later_are_watched_too() -> None:
    weights = [torch.ones(2, requires_grad=True)]
    fresh = Freshness("iterate_train_feature", lambda: weights)
    kept: list[Tensor] = []
    for number in range(4):
        if number == 1:
            weights.append(torch.ones(2, requires_grad=True))
        with fresh.making():
            kept.append(weights[-1] * 2)
        fresh.check({"": kept[-1]}, number)
        with torch.no_grad():
            weights[-1].add_(1)
    with fresh.making():
        pass
    for number in (2, 3):
        with pytest.raises(FeatureError, match=f"batch {number}"):
            fresh.check({"": kept[number]}, number)
