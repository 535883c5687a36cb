"""Training code as people write it, one idiom after another: split and joined give one model."""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from heterofed import ConfigError, simulate
from heterofed.baselines import compare
from heterofed.compute.joint_optimizer import JointOptimizer
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

ROUNDS, BATCH = 3, 8

Idiom = Callable[[Any, dict[str, Any], Tensor], Any]
Make = Callable[[Any], optim.Optimizer]


def linear(inputs: int, outputs: int, seed: int) -> nn.Module:
    """A layer of the same weights wherever it is made."""
    layer = nn.Linear(inputs, outputs, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in layer.parameters():
            each.copy_(torch.randn(each.shape, generator=generator, dtype=torch.float64))
    return layer


def sgd(parameters: Any) -> optim.Optimizer:
    return optim.SGD(parameters, lr=0.1, momentum=0.9)


def cut(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


def labels_of(ids: list[str]) -> Tensor:
    return torch.tensor([float(int(each[3:]) % 2) for each in ids], dtype=torch.float64)


class Fusing:
    """What an idiom may use, at a Host and in a joined model."""

    idiom: Idiom

    def begin(self) -> None:
        self.kept = SimpleNamespace()
        self.number = 0

    def score(self, projection: dict[str, Any], labels: Tensor) -> Tensor:
        fused = torch.cat(list(projection.values()), dim=1)
        return bce(self.infer_model(fused).squeeze(1), labels)  # type: ignore[attr-defined]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What a script makes before its loop."""
        if not hasattr(self.kept, name):
            setattr(self.kept, name, make())
        return getattr(self.kept, name)

    def host_weights(self) -> list[nn.Parameter]:
        models: Any = self
        return [*models.infer_model.parameters(), *models.feature_model.parameters()]


class Host(Fusing, TinyHost):
    def __init__(self, folder: Path, idiom: Idiom, make: Make, **settings: Any) -> None:
        fast: dict[str, Any] = {"psi_protocol": "ecdh", "leak_report": "off"}
        super().__init__(folder, max_rounds=ROUNDS, **fast, **settings)
        self.idiom, self.make = idiom, make
        self.begin()

    def make_feature_model(self) -> nn.Module:
        return linear(2, 3, 1)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return self.make(feature_model.parameters())

    def make_infer_model(self) -> nn.Module:
        return linear(7, 1, 2)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return self.make(infer_model.parameters())

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in cut(train_ids):
            yield feature_model(rows(ids, 2, 0).double()), labels_of(ids)

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Tensor) -> Any:
        loss = self.idiom(self, feature_projection, labels)
        self.number += 1
        return loss

    def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
        pass


class Collaborator(TinyCollaborator):
    def __init__(self, folder: Path, make: Make, every: int = 1) -> None:
        super().__init__(folder, leak_report="off")
        self.make, self.every, self.number = make, every, 0

    def make_feature_model(self) -> nn.Module:
        return linear(3, 4, 3)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return self.make(feature_model.parameters())

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in cut(train_ids):
            yield feature_model(rows(ids, 3, 7).double())


class Accumulating(Collaborator):
    """Steps on every other batch."""

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        torch.autograd.backward(features, gradients)
        self.number += 1
        if self.number % 2 == 0:
            self.feature_optimizer.step()
            self.feature_optimizer.zero_grad()


class Joined(Fusing):
    """The same in one process, with one optimizer over everything."""

    def __init__(self, idiom: Idiom, make: Make) -> None:
        self.idiom = idiom
        self.feature_model, self.infer_model = linear(2, 3, 1), linear(7, 1, 2)
        self.other = linear(3, 4, 3)
        models = self.infer_model, self.feature_model, self.other
        self.optimizer = make([{"params": list(each.parameters())} for each in models])
        self.begin()

    def train(self, ids: list[str]) -> None:
        for part in itertools.chain.from_iterable(cut(ids) for _ in range(ROUNDS)):
            projection = {
                "alice": self.feature_model(rows(part, 2, 0).double()),
                "bob": self.other(rows(part, 3, 7).double()),
            }
            self.idiom(self, projection, labels_of(part))
            self.number += 1


# -- the idioms ----------------------------------------------------------------------------------


def plain(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    loss.backward()
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def cleared_after(it: Any, projection: Any, labels: Tensor) -> Tensor:
    loss = it.score(projection, labels)
    loss.backward()
    it.optimizer.step()
    it.optimizer.zero_grad()
    return loss  # type: ignore[no-any-return]


def cleared_to_zeros(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad(set_to_none=False)
    loss = it.score(projection, labels)
    loss.backward()
    it.optimizer.step()
    it.optimizer.zero_grad(set_to_none=False)
    return loss  # type: ignore[no-any-return]


def with_closure(it: Any, projection: Any, labels: Tensor) -> Any:
    def closure() -> Tensor:
        it.optimizer.zero_grad()
        loss: Tensor = it.score(projection, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return it.optimizer.step(closure)


def two_losses(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    loss.backward(retain_graph=True)
    also = sum(each.pow(2).mean() for each in projection.values())
    also.backward()
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def sharpness_aware(it: Any, projection: Any, labels: Tensor) -> Tensor:
    """The weights of the Host alone climb; a second forward over the same features."""
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    loss.backward(retain_graph=True)
    climbed = [(each, 0.05 * each.grad.sign()) for each in it.infer_model.parameters()]
    with torch.no_grad():
        for each, step in climbed:
            each.add_(step)
    it.optimizer.zero_grad()
    again = it.score(projection, labels)
    again.backward()
    with torch.no_grad():
        for each, step in climbed:
            each.sub_(step)
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


class SAM(optim.Optimizer):
    """The wrapper of many a repository: two steps around one optimizer."""

    def __init__(self, base: optim.Optimizer, climbing: Any) -> None:
        super().__init__([{"params": list(climbing)}], {"rho": 0.05})
        self.base = base

    @torch.no_grad()
    def first_step(self) -> None:
        for each in self.param_groups[0]["params"]:
            self.state[each]["climbed"] = 0.05 * each.grad.sign()
            each.add_(self.state[each]["climbed"])
        self.base.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for each in self.param_groups[0]["params"]:
            each.sub_(self.state[each]["climbed"])
        self.base.step()
        self.base.zero_grad()


def sam_class(it: Any, projection: Any, labels: Tensor) -> Tensor:
    sam = it.once("sam", lambda: SAM(it.optimizer, it.infer_model.parameters()))
    loss = it.score(projection, labels)
    loss.backward(retain_graph=True)
    sam.first_step()
    it.score(projection, labels).backward()
    sam.second_step()
    return loss  # type: ignore[no-any-return]


def clipped_norm(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    loss.backward()
    clip_grad_norm_(it.host_weights(), 0.05)
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def clipped_value(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    loss.backward()
    clip_grad_value_(it.host_weights(), 0.02)
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def scheduled(make: Callable[[optim.Optimizer], Any]) -> Idiom:
    """A schedule of the Host's; that of another party would be its own."""

    def idiom(it: Any, projection: Any, labels: Tensor) -> Tensor:
        schedule = it.once("schedule", lambda: make(it.optimizer))
        for group in it.optimizer.param_groups[2:]:
            group["lr"], group["momentum"] = 0.1, 0.9
        loss = plain(it, projection, labels)
        plateau = isinstance(schedule, optim.lr_scheduler.ReduceLROnPlateau)
        schedule.step(*[loss.item()] if plateau else [])
        return loss

    idiom.__name__ = f"scheduled_{make.__name__}"
    return idiom


def by_step(optimizer: optim.Optimizer) -> Any:
    return optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def one_cycle(optimizer: optim.Optimizer) -> Any:
    return optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=100)


def on_plateau(optimizer: optim.Optimizer) -> Any:
    return optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, mode="max")


def in_sequence(optimizer: optim.Optimizer) -> Any:
    schedules = optim.lr_scheduler
    parts: list[Any] = [
        schedules.LinearLR(optimizer, total_iters=3),
        schedules.CosineAnnealingLR(optimizer, T_max=9),
    ]
    return schedules.SequentialLR(optimizer, parts, milestones=[3])


def scaled(it: Any, projection: Any, labels: Tensor) -> Tensor:
    scaler = it.once(
        "scaler", lambda: torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=2)
    )
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    scaler.scale(loss).backward()
    scaler.step(it.optimizer)
    scaler.update()
    return loss  # type: ignore[no-any-return]


def scaled_and_clipped(it: Any, projection: Any, labels: Tensor) -> Tensor:
    scaler = it.once("scaler", lambda: torch.amp.GradScaler("cpu", init_scale=1024.0))
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    scaler.scale(loss).backward()
    if isinstance(it, Host):
        it.optimizer.unscale_(scaler)
    else:
        scaler.unscale_(it.optimizer)
    clip_grad_norm_(it.host_weights(), 0.05)
    scaler.step(it.optimizer)
    scaler.update()
    return loss  # type: ignore[no-any-return]


def scaled_with_overflow(it: Any, projection: Any, labels: Tensor) -> Tensor:
    scaler = it.once("scaler", lambda: torch.amp.GradScaler("cpu", init_scale=8.0))
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    factor = math.inf if it.number % 3 == 1 else 1.0
    (scaler.scale(loss) * factor).backward()
    scaler.step(it.optimizer)
    scaler.update()
    return loss  # type: ignore[no-any-return]


def gradients_by_hand(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    own = it.host_weights()
    peers = [projection["bob"]] if isinstance(it, Host) else [*it.other.parameters()]
    for each, gradient in zip(
        [*own, *peers], torch.autograd.grad(loss, [*own, *peers]), strict=True
    ):
        each.grad = gradient
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def skipped(it: Any, projection: Any, labels: Tensor) -> Tensor:
    """A batch that is looked at and given up."""
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    loss.backward()
    if it.number % 2:
        it.optimizer.zero_grad()
    else:
        it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def no_backward(it: Any, projection: Any, labels: Tensor) -> Tensor:
    if it.number % 2:
        return it.score(projection, labels).detach()  # type: ignore[no-any-return]
    return plain(it, projection, labels)


def parts_one_by_one(it: Any, projection: Any, labels: Tensor) -> Tensor:
    parts = [it.infer_optimizer, it.feature_optimizer] if isinstance(it, Host) else [it.optimizer]
    for part in parts:
        part.zero_grad()
    loss = it.score(projection, labels)
    loss.backward()
    for part in parts:
        part.step()
    return loss  # type: ignore[no-any-return]


def parts_in_two_passes(it: Any, projection: Any, labels: Tensor) -> Tensor:
    parts = [it.infer_optimizer, it.feature_optimizer] if isinstance(it, Host) else [it.optimizer]
    it.score(projection, labels).mul(3).backward(retain_graph=True)
    for part in parts:
        part.zero_grad()
    loss = it.score(projection, labels)
    loss.backward()
    for part in parts:
        part.step()
        part.zero_grad()
    return loss  # type: ignore[no-any-return]


def gradient_penalty(it: Any, projection: Any, labels: Tensor) -> Tensor:
    it.optimizer.zero_grad()
    loss = it.score(projection, labels)
    (slope,) = torch.autograd.grad(loss, projection["bob"], create_graph=True)
    (loss + slope.pow(2).sum()).backward()
    it.optimizer.step()
    return loss  # type: ignore[no-any-return]


def accumulated(it: Any, projection: Any, labels: Tensor) -> Tensor:
    loss = it.score(projection, labels)
    loss.backward()
    if it.number % 2:
        it.optimizer.step()
        it.optimizer.zero_grad()
    return loss  # type: ignore[no-any-return]


def saved_and_loaded(it: Any, projection: Any, labels: Tensor) -> Tensor:
    """Goes back a step in the optimizer, as after a failed line search."""
    before = it.optimizer.state_dict()
    it.optimizer.load_state_dict(before)
    return plain(it, projection, labels)


def hooked(it: Any, projection: Any, labels: Tensor) -> Tensor:
    calls = it.once("calls", list)
    it.once("hook", lambda: it.optimizer.register_step_pre_hook(lambda *_: calls.append(1)))
    before = len(calls)
    loss = plain(it, projection, labels)
    assert len(calls) == before + 1
    return loss


def momentum_reset(it: Any, projection: Any, labels: Tensor) -> Tensor:
    loss = plain(it, projection, labels)
    for group in it.optimizer.param_groups[:2]:
        for each in group["params"]:
            it.optimizer.state[each]["momentum_buffer"].zero_()
    return loss


def in_place(change: Callable[[Tensor], Any]) -> Idiom:
    def idiom(it: Any, projection: Any, labels: Tensor) -> Tensor:
        change(projection["bob"])
        return plain(it, projection, labels)

    idiom.__name__ = f"in_place_{change.__name__}"
    return idiom


def relu(features: Tensor) -> None:
    nn.ReLU(inplace=True)(features)


def add(features: Tensor) -> None:
    features.add_(1).mul_(2)


def masked_fill(features: Tensor) -> None:
    features.masked_fill_(features > 0.5, 0.25)


def column(features: Tensor) -> None:
    features[:, 0] = features[:, 1] * 2
    features[features.abs() > 2] *= 0.5


def dropout(features: Tensor) -> None:
    nn.functional.dropout(features, 0.0, training=True, inplace=True)


IDIOMS: list[Idiom] = [
    plain,
    cleared_after,
    cleared_to_zeros,
    with_closure,
    two_losses,
    sharpness_aware,
    sam_class,
    clipped_norm,
    clipped_value,
    *map(scheduled, (by_step, one_cycle, on_plateau, in_sequence)),
    scaled,
    scaled_and_clipped,
    scaled_with_overflow,
    gradients_by_hand,
    skipped,
    no_backward,
    parts_one_by_one,
    parts_in_two_passes,
    gradient_penalty,
    saved_and_loaded,
    hooked,
    momentum_reset,
    *map(in_place, (relu, add, masked_fill, column, dropout)),
]


def same(host: Host, collaborator: Collaborator, joined: Joined) -> None:
    for split, one in (
        (host.infer_model, joined.infer_model),
        (host.feature_model, joined.feature_model),
        (collaborator.feature_model, joined.other),
    ):
        for here, there in zip(split.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-10)


EARLY = [plain, two_losses, sharpness_aware, skipped, scaled_with_overflow, in_place(relu)]


@pytest.mark.parametrize(
    ("idiom", "early"),
    [
        *((each, False) for each in IDIOMS),
        *((each, True) for each in EARLY),
        (plain, "once"),
        (in_place(relu), "once"),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_split_trains_as_joined(
    idiom: Idiom, early: bool | Literal["once"], tmp_path: Path
) -> None:
    host = Host(tmp_path, idiom, sgd, early_gradients=early)
    collaborator = Collaborator(tmp_path, sgd)
    simulate(host, [collaborator], task_id="idiom")
    joined = Joined(idiom, sgd)
    before = [each.detach().clone() for each in joined.other.parameters()]
    joined.train(host.train_ids)
    same(host, collaborator, joined)
    assert any(
        not torch.equal(now, then)
        for now, then in zip(joined.other.parameters(), before, strict=True)
    )
    if not early:
        assert_pooled_repeats(host, collaborator)


def assert_pooled_repeats(host: Host, collaborator: Collaborator) -> None:
    """The pooled baseline is the joint run, to the bit."""
    host.begin()
    pooled = compare(host, [collaborator], task_id="idiom", modes=["pooled"]).models["pooled"]
    for party, prefix in ((host, ""), (collaborator, "bob ")):
        for name, path in party.result.models.items():
            expected = torch.load(path, weights_only=True)
            now = torch.load(pooled[f"{prefix}{name}"], weights_only=True)
            assert all(torch.equal(now[key], each) for key, each in expected.items()), name


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.Adam(p, lr=0.02),
        lambda p: optim.AdamW(p, lr=0.02, amsgrad=True),
        lambda p: optim.RMSprop(p, lr=0.01),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ],
    ids=["adam", "adamw", "rmsprop", "nesterov"],
)
def test_with_other_optimizers(make: Make, tmp_path: Path) -> None:
    host, collaborator = Host(tmp_path, sharpness_aware, make), Collaborator(tmp_path, make)
    simulate(host, [collaborator], task_id="idiom")
    joined = Joined(sharpness_aware, make)
    joined.train(host.train_ids)
    same(host, collaborator, joined)


def test_accumulation_at_both_parties(tmp_path: Path) -> None:
    host, collaborator = Host(tmp_path, accumulated, sgd), Accumulating(tmp_path, sgd)
    simulate(host, [collaborator], task_id="idiom")
    joined = Joined(accumulated, sgd)
    joined.train(host.train_ids)
    same(host, collaborator, joined)


def test_it_is_an_optimizer(tmp_path: Path) -> None:
    host = Host(tmp_path, plain, sgd)
    simulate(host, [Collaborator(tmp_path, sgd)], task_id="idiom")
    optimizer = host.optimizer
    assert isinstance(optimizer, optim.Optimizer)
    assert [*optimizer] == [host.infer_optimizer, host.feature_optimizer]
    groups = [*host.infer_optimizer.param_groups, *host.feature_optimizer.param_groups]
    assert all(mine is its for mine, its in zip(optimizer.param_groups, groups, strict=True))
    assert len(optimizer.state) == 4
    state = optimizer.state_dict()
    assert sorted(state["state"]) == [0, 1, 2, 3]
    other = JointOptimizer([sgd(linear(7, 1, 5).parameters()), sgd(linear(2, 3, 6).parameters())])
    other.load_state_dict(state)
    for mine, its in zip(other.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(mine["momentum_buffer"], its["momentum_buffer"])
    with pytest.raises(ValueError, match="parameter groups"):
        other.load_state_dict(host.infer_optimizer.state_dict())
    assert len(copy.deepcopy(optimizer).state) == 4
    assert "Parameter Group 1" in repr(optimizer)
    optimizer.state = defaultdict(dict)
    assert not host.infer_optimizer.state
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert len(host.infer_optimizer.param_groups) == 2


def test_lbfgs_on_top_of_received_features(tmp_path: Path) -> None:
    losses: list[float] = []

    def idiom(it: Any, projection: Any, labels: Tensor) -> Any:
        fused = projection | {"alice": projection["alice"].detach()}

        def closure() -> Tensor:
            it.optimizer.zero_grad()
            loss: Tensor = it.score(fused, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            return loss

        return it.optimizer.step(closure)

    class Fitting(Host):
        def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
            return optim.LBFGS(infer_model.parameters(), max_iter=4)

    host = Fitting(tmp_path, idiom, sgd)
    collaborator = Collaborator(tmp_path, sgd)
    simulate(host, [collaborator], task_id="idiom")
    assert len(losses) > 2 * host.number
    assert losses[-1] < losses[0]
    before: Any = linear(3, 4, 3)
    assert not torch.equal(collaborator.feature_model.weight, before.weight)


def test_unscaling_that_leaves_out_other_parties_is_refused(tmp_path: Path) -> None:
    def idiom(it: Any, projection: Any, labels: Tensor) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(it.score(projection, labels)).backward()
        scaler.unscale_(it.optimizer)
        scaler.step(it.optimizer)

    with pytest.raises(ConfigError, match=r"self\.optimizer\.unscale_\(scaler\)"):
        simulate(Host(tmp_path, idiom, sgd), [Collaborator(tmp_path, sgd)], task_id="idiom")


def test_gradients_changed_by_hand_count(tmp_path: Path) -> None:
    """What `.grad` of received features holds is what travels, however it came there."""
    got: list[Tensor] = []
    sent: list[Tensor] = []

    def idiom(it: Any, projection: Any, labels: Tensor) -> None:
        features = projection["bob"]
        it.score(projection, labels).backward(retain_graph=True)
        if it.number == 1:
            features.grad = None
        elif it.number == 2:
            features.grad = torch.ones_like(features)
        elif it.number == 3:
            features.retain_grad()
        it.score(projection, labels).backward()
        if it.number == 4:
            clip_grad_norm_([features], 0.001)
        sent.append(features.grad.clone())
        it.optimizer.step()

    class Noting(Collaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            got.append(gradients)

    simulate(Host(tmp_path, idiom, sgd), [Noting(tmp_path, sgd)], task_id="idiom")
    assert len(got) == len(sent) > 5
    assert all(map(torch.equal, got, sent))


def test_a_changed_shape_leaves_the_gradient(tmp_path: Path) -> None:
    def idiom(it: Any, projection: Any, labels: Tensor) -> Tensor:
        projection["bob"].unsqueeze_(0)
        return plain(it, projection | {"bob": projection["bob"].squeeze(0)}, labels)

    host, collaborator = Host(tmp_path, idiom, sgd), Collaborator(tmp_path, sgd)
    simulate(host, [collaborator], task_id="idiom")
    joined = Joined(plain, sgd)
    joined.train(host.train_ids)
    same(host, collaborator, joined)
