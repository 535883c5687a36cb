"""With whatever defence or option: a run that was interrupted goes on to the same bits."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from heterofed import Batch, simulate
from heterofed.errors import ResumeError
from heterofed.homo_nn import CentralDP, FedAdam, FedAvgM, FedProx
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import IsotropicGaussian, MaxNorm
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.synthetic_gradients import SyntheticGradients
from heterofed.protocol.plan import Plan
from heterofed.runs.settings import described
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run
from tests.hetero_nn import sites_tiny
from tests.homo_nn import tiny as horizontal
from tests.runs.test_resume import CrashError, crashing, weights

IDS = [f"id-{number:03}" for number in range(140)]
MANY = [f"id-{number:03}" for number in range(600)]
BATCH, EVERY, ROUNDS = 4, 5, 2
BATCHES = 14
"""The fewest batches of a round."""


class StopError(Exception):
    """Interrupts a run."""


class Host(TinyHost):
    """Small batches with checkpoints between them; some batches have one class alone."""

    stop_at = 0
    seen = 0

    def __init__(self, results: Path, rare: int = 3, **settings: Any) -> None:
        self.rare = rare
        common = {"batch_size": BATCH, "checkpoint_batches": EVERY, "shuffle": True}
        given = {"psi_protocol": "ecdh", "leak_report": "off", "max_rounds": ROUNDS}
        super().__init__(results, **{**common, **given, **settings})

    def load_local_ids(self) -> list[str]:
        return IDS if self.batch_size == BATCH else MANY

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            labels = torch.tensor([float(int(each[3:]) % self.rare == 0) for each in ids])
            yield Batch(feature_model(rows(ids, 2, 0)), labels, ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        self.seen += 1
        if self.seen == self.stop_at:
            raise StopError
        return super().train_a_batch(feature_projection, labels)


class Collaborator(TinyCollaborator):
    def load_local_ids(self) -> list[str]:
        return MANY

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            yield Batch(feature_model(rows(ids, 3, 7)), ids=ids)


class Momentum:
    """A user's defence, which learns in several ways: it knows nothing of checkpoints."""

    def __init__(self) -> None:
        self.mean: Tensor | None = None
        self.calls: dict[str, int] = {}
        self.chance = torch.Generator().manual_seed(3)
        self.inner = Marvell(power=1.0)

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:
        self.calls["all"] = self.calls.get("all", 0) + 1
        mean = gradients.mean(0)
        self.mean = mean if self.mean is None else 0.9 * self.mean + 0.1 * mean
        drawn = torch.rand(len(gradients), 1, generator=self.chance)
        sent: Tensor = self.inner(gradients, labels) + drawn * self.mean
        return sent / (1 + 0.01 * self.calls["all"])


class Net(nn.Module):
    """A user's defence that is a module with a buffer."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, gradients: Tensor, labels: Tensor) -> Tensor:
        self.count += 1
        return gradients * (1 + 0.1 * self.count)


Parties = Callable[[Path], list[Any]]


def pair(*, bob: Any = None, others: tuple[str, ...] = (), **settings: Any) -> Parties:
    """A Host with these settings, and its Collaborators."""
    return lambda folder: [
        Host(folder, **settings),
        *(Collaborator(folder, name, **(bob or {})) for name in ("bob", *others)),
    ]


RAISED: dict[str, Any] = {"batch_size": 24, "max_rounds": 4}
"""A batch is measured together with the next one, because it has too few rows alone."""

LEARNING = {
    "SyntheticGradients": pair(gradient_defence=SyntheticGradients(features=8, memory=100)),
    "Marvell": pair(gradient_defence=Marvell(bound=0.6), rare=20, checkpoint_batches=1),
    "a user's defence": pair(gradient_defence=Momentum()),
    "a user's module": pair(gradient_defence=Net()),
    "raised for labels": pair(limits={"max_label_auc": 0.6, "raise_defence": True}, **RAISED),
    "raised for inputs": pair(limits={"max_input_r2": 0.3, "raise_defence": True}, **RAISED),
}
"""Defences that remember batches."""

OTHERS = {
    "none": pair(),
    "MaxNorm": pair(gradient_defence=MaxNorm()),
    "IsotropicGaussian": pair(gradient_defence=IsotropicGaussian(1.0)),
    "ClippedGaussian": pair(bob={"embedding_defence": ClippedGaussian(1.0, 0.5)}),
    "Decorrelation": pair(bob={"embedding_defence": Decorrelation(0.1)}),
    "label_dp": pair(label_dp=RandomisedResponse(1.0, secret=bytes(32))),
    "party_dropout": pair(party_dropout=0.3),
    "max_staleness": pair(max_staleness=2),
    "early_gradients": pair(early_gradients=True),
    "compression": pair(compress_features="int8", compress_gradients="fp16"),
    "masked_sum": pair(fusion="masked_sum", others=("carol",), collaborators=["bob", "carol"]),
    "limits": pair(limits={"max_label_auc": 0.99, "max_input_r2": 0.99}),
    "without features": pair(bob={"is_feature_trainable": False}),
}


def interrupted(made: Parties, folder: Path, at: int) -> list[Any]:
    """The results of a run that ended at a batch, and was resumed."""
    first = made(folder)
    first[0].stop_at = at
    with pytest.raises(StopError):
        simulate(first[0], first[1:], task_id="tiny")
    again = made(folder)
    done = simulate(again[0], again[1:], task_id="tiny", resume="require")
    return list(done.results.values())


def compare(made: Parties, folder: Path, at: int) -> None:
    host, *others = made(folder / "whole")
    whole = simulate(host, others, task_id="tiny")
    expected = weights(*whole.results.values())
    now = weights(*interrupted(made, folder / "torn", at))
    assert now.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(now[name], tensor), (at, name)


@pytest.mark.parametrize("name", ["SyntheticGradients", "a user's defence", "raised for inputs"])
def test_what_a_defence_has_learnt_is_kept(name: str, tmp_path: Path) -> None:
    compare(LEARNING[name], tmp_path, BATCHES * ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_it_is_kept_at_whatever_batch(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compare(LEARNING[name], tmp_path, random.Random(name).randint(BATCHES, BATCHES * ROUNDS))
    assert ("the defence is raised" in caplog.text) == name.startswith("raised")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_option_goes_on(name: str, tmp_path: Path) -> None:
    compare(OTHERS[name], tmp_path, random.Random(name).randint(1, BATCHES * ROUNDS))


# -- other settings -------------------------------------------------------------------------------


def resumed(parties: list[Any]) -> None:
    simulate(parties[0], parties[1:], task_id="tiny", resume="auto")


ALONE: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "alice": (
        {"party_dropout": 0.3, "gradient_defence": Momentum(), "label_dp": RandomisedResponse(1.0)},
        {"gradient_defence": MaxNorm(), "label_dp": RandomisedResponse(2.0)},
        [
            "party_dropout was 0.3 and is 0.0",
            "gradient_defence was Momentum and is MaxNorm()",
            "label_dp was RandomisedResponse(1.0, 2, label_set='labels') and is RandomisedRes",
        ],
    ),
    "bob": (
        {"embedding_defence": ClippedGaussian(1.0, 0.5)},
        {"weights_defence": DPSGD(1.1, 1.0, batch_size=BATCH)},
        [
            "embedding_defence was ClippedGaussian(clip=1.0, noise_multiplier=0.5",
            "weights_defence was None and is DPSGD(1.1, 1.0, batch_size=4,",
        ],
    ),
}
"""What stands in no plan, by party: its settings when the run began, and when it was resumed."""


@pytest.mark.parametrize("party", ALONE)
def test_settings_of_one_party_are_those_that_the_run_began_with(
    party: str, tmp_path: Path
) -> None:
    before, now, said = ALONE[party]

    def made(settings: dict[str, Any]) -> list[Any]:
        host, bob = (settings, {}) if party == "alice" else ({}, settings)
        return pair(bob=bob, **host)(tmp_path)

    first = made(before)
    first[0].stop_at = 2
    with pytest.raises(StopError):
        resumed(first)
    with pytest.raises(ResumeError, match="never") as caught:
        resumed(made(now))
    assert all(each in str(caught.value) for each in said)


def of_a_function() -> Callable[[Tensor, Tensor], Tensor]:
    """A function that is another one each time, as in another process."""

    def noisy(gradients: Tensor, _labels: Tensor) -> Tensor:
        return gradients + 0.01

    return noisy


WRITTEN: list[Callable[[], Any]] = [
    *(of_a_function, Momentum, lambda: Momentum().__call__, lambda: functools.partial(max, 1)),
    *(lambda: Marvell(0.6), lambda: SyntheticGradients(0.6), MaxNorm, lambda: Decorrelation(0.1)),
    *(lambda: IsotropicGaussian(1.0), lambda: ClippedGaussian(1.0, 0.5), lambda: None),
    *(lambda: RandomisedResponse(1.0), lambda: DPSGD(1.1, 1.0, batch_size=BATCH)),
    *(lambda: CentralDP(1.0, 1.0, 1e-5), lambda: FedProx(0.1), FedAdam, FedAvgM),
]


@pytest.mark.parametrize("make", WRITTEN)
def test_a_setting_that_is_written_alike_is_the_same(make: Callable[[], Any]) -> None:
    one, other = make(), make()
    assert described(one) == described(other)
    assert " at 0x" not in described(one)


def test_a_run_goes_on_with_a_function_that_is_made_anew(tmp_path: Path) -> None:
    first = pair(gradient_defence=of_a_function())(tmp_path)
    first[0].stop_at = 2
    with pytest.raises(StopError):
        resumed(first)
    resumed(pair(gradient_defence=of_a_function())(tmp_path))


PLANNED = {field.name for field in msgspec.structs.fields(Plan)} | {"announce_split"}
FREE = {
    *("feature_key", "name", "results_dir", "callbacks", "place", "insecure", "site", "role"),
    *("join_timeout", "data_channel_timeout", "schedule_timeout"),
    *("psi_executor", "psi_key_leaves", "max_peer_ids"),
    *("feature_workers", "shard_feature_model"),
    *("leak_report", "record", "record_days", "log_rounds", "early_gradients"),
    *("max_releases_per_row", "max_epsilon", "max_rollbacks"),
    *("needs_secure_aggregation", "max_update_norm", "max_rows", "max_model_bytes"),
    *("secure_aggregation", "weighting", "fraction"),  # are in the plan under other names
    *("seed", "is_feature_trainable"),  # are compared by themselves
}
"""Settings that a restarted party may change, beside those that are compared."""


@pytest.mark.parametrize(
    "party",
    [
        *pair()(Path()),
        horizontal.host(Path(), 2, 2),
        horizontal.Party(Path(), "a", 0),
    ],
    ids=lambda party: type(party).__name__,
)
def test_every_setting_may_change_or_is_compared(party: Any) -> None:
    settings = party._heterofed.settings
    names = {each.name for each in fields(settings)}
    assert names - PLANNED - FREE == settings.lasting.keys()


# -- one party is lost, and the others roll back ----------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ["SyntheticGradients", "Marvell", "a user's defence"])
def test_a_host_that_rolls_back_learns_from_the_same_batches_again(
    name: str, tmp_path: Path
) -> None:
    """It remembers what it sent, and sends that again; what it learns does not depend on it."""
    patient = LEARNING[name]
    expected = weights(*run(*patient(tmp_path / "whole")))
    host, bob = patient(tmp_path / "torn")
    host._heterofed.settings = replace(host._heterofed.settings, wait_for_peers=60.0)
    original = bob.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        return patient(tmp_path / "torn")[1].launch_task(task)

    crashing(bob, "update_feature_model", BATCHES + 4)
    bob.launch_task = launch
    now = weights(*run(host, bob))
    assert all(torch.equal(now[name], expected[name]) for name in expected)


# -- sites and horizontal tasks ----------------------------------------------------------------


def stopping(scheduler: Any, hook: str, at: int) -> None:
    original, calls = getattr(scheduler, hook), iter(range(1, 10_000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise StopError
        return original(*args, **kwargs)

    setattr(scheduler, hook, call)


def compare_stopped(made: Parties, folder: Path, hook: str, at: int) -> None:
    parties = [made(folder / each) for each in ("whole", "torn", "torn")]
    expected = weights(*simulate(parties[0][0], parties[0][1:], task_id="t").results.values())
    stopping(parties[1][0], hook, at)
    with pytest.raises(StopError):
        simulate(parties[1][0], parties[1][1:], task_id="t")
    done = simulate(parties[2][0], parties[2][1:], task_id="t", resume="require")
    now = weights(*done.results.values())
    assert now.keys() == expected.keys()
    assert all(torch.equal(now[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("share", ["gradient", "weights"])
@pytest.mark.parametrize("defence", [None, SyntheticGradients(features=8, memory=100)])
def test_sites_go_on(share: str, defence: Any, tmp_path: Path) -> None:
    def made(folder: Path) -> list[Any]:
        given: dict[str, Any] = {"sites_share": share, "checkpoint_batches": 4}
        given |= {"sites_every": 2} if share == "weights" else {}
        bank, others = sites_tiny.parties(
            folder, ["north", "south"], gradient_defence=defence, **given
        )
        return [bank, *others]

    compare_stopped(made, tmp_path, "train_a_batch", random.Random(share).randint(6, 18))


STRATEGIES: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "momentum": {"strategy": FedAvgM(), "fraction": 0.67},
    "FedAdam": {"strategy": FedAdam(), "secure_aggregation": True},
    "FedProx": {"strategy": FedProx(0.1)},
    "central DP": {"central_dp": CentralDP(1.0, 1.0, 1e-5), "weighting": "equal"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_horizontal_tasks_go_on(name: str, tmp_path: Path) -> None:
    def made(folder: Path) -> list[Any]:
        parties = [
            horizontal.Party(folder, key, number, steps=2, momentum=0.5)
            for number, key in enumerate("abc")
        ]
        return [horizontal.host(folder, 3, 5, **STRATEGIES[name]), *parties]

    compare_stopped(made, tmp_path, "take_scores", random.Random(name).randint(2, 5))
