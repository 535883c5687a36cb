"""Whatever way a user carries state from batch to batch, a run that was killed goes on as it was.

Each idiom changes the loss by what it carries, so a state that is lost shows in the weights.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import TaskResult
from heterofed import errors as e
from tests.e2e.processes import Parties
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.runs.test_resume import CrashError, crashing, weights

pytestmark = pytest.mark.slow

MODULE = "tests.runs.test_carried"
ROUNDS = 4
COUNT = 0
"""A global that one idiom counts in."""
SEEN: list[float] = []


class Idiom:
    """One way of carrying state. By default it carries nothing."""

    def begin(self, host: Any) -> None:
        """In the constructor."""

    def models(self, host: Any, model: nn.Module) -> None:
        """When the infer model was made."""

    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        """When its optimizer was made."""

    def factor(self, host: Any) -> Any:
        """What the loss is multiplied by; called once for each batch, and changes what it is of."""
        return 1.0

    def end(self, host: Any) -> None:
        """A round is over."""


class LearntWeight(Idiom):
    """A parameter on `self`, in the optimizer of the infer model (uncertainty weighting)."""

    def begin(self, host: Any) -> None:
        host.log_variance = nn.Parameter(torch.tensor(0.1))

    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        optimizer.add_param_group({"params": [host.log_variance], "lr": 0.3})

    def factor(self, host: Any) -> Any:
        return torch.exp(-host.log_variance)


class LearntWeightOfNobody(Idiom):
    """A parameter that only the optimizer holds."""

    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        optimizer.add_param_group({"params": [nn.Parameter(torch.tensor(0.2))], "lr": 0.3})
        host.group = len(optimizer.param_groups) - 1

    def factor(self, host: Any) -> Any:
        return torch.exp(-host.infer_optimizer.param_groups[host.group]["params"][0])


class Helper(Idiom):
    """A module with an optimizer of its own, both on `self`."""

    def begin(self, host: Any) -> None:
        host.helper = nn.Linear(1, 1)
        host.helper_optimizer = optim.Adam(host.helper.parameters(), lr=0.05)

    def factor(self, host: Any) -> Any:
        host.helper_optimizer.step()
        host.helper_optimizer.zero_grad()
        return torch.sigmoid(host.helper(torch.ones(1))).sum() + 0.5


class ModulesInAList(Idiom):
    def begin(self, host: Any) -> None:
        host.heads = [nn.Linear(1, 1), nn.Linear(1, 1)]

    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        for head in host.heads:
            optimizer.add_param_group({"params": list(head.parameters())})

    def factor(self, host: Any) -> Any:
        return torch.sigmoid(sum(head(torch.ones(1)).sum() for head in host.heads)) + 0.5


@dataclass
class Box:
    """An object of the user's own."""

    parts: dict[str, Any]
    count: int = 0


class Slots:
    """One without a `__dict__`."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class ModulesInAnObject(Idiom):
    def begin(self, host: Any) -> None:
        host.box = Box({"a": nn.ParameterDict({"w": nn.Parameter(torch.tensor(0.1))})})

    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        optimizer.add_param_group({"params": [host.box.parts["a"]["w"]], "lr": 0.2})

    def factor(self, host: Any) -> Any:
        host.box.count += 1
        return torch.exp(-host.box.parts["a"]["w"]) * (1 + host.box.count / 100)


class Schedule(Idiom):
    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        host.schedule = optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                optim.lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=3),
                optim.lr_scheduler.CosineAnnealingLR(optimizer, 7),
            ],
            [3],
        )
        host.lambdas = [optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)]

    def factor(self, host: Any) -> Any:
        return 1 + host.schedule.last_epoch / 10 + host.lambdas[0].last_epoch / 10

    def end(self, host: Any) -> None:
        host.schedule.step()
        host.lambdas[0].step()


class Plateau(Idiom):
    def optimizers(self, host: Any, optimizer: optim.Optimizer) -> None:
        host.plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0)

    def end(self, host: Any) -> None:
        host.plateau.step(1.0)


class Scaler(Idiom):
    def begin(self, host: Any) -> None:
        host.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)

    def factor(self, host: Any) -> Any:
        host.scaler.scale(torch.ones(()))
        host.scaler.update(host.scaler.get_scale() * 1.01)
        return host.scaler.get_scale()


class Average(Idiom):
    """A moving average of the model."""

    def models(self, host: Any, model: nn.Module) -> None:
        host.average = optim.swa_utils.AveragedModel(
            model,
            multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9),  # type: ignore[no-untyped-call]
        )

    def factor(self, host: Any) -> Any:
        host.average.update_parameters(host.infer_model)
        return 1 + sum(each.abs().sum().item() for each in host.average.parameters()) / 10


class AverageInADict(Idiom):
    """The same by hand, made when it is first needed."""

    def factor(self, host: Any) -> Any:
        now = {name: each.detach() for name, each in host.infer_model.named_parameters()}
        if not hasattr(host, "shadow"):
            host.shadow = {name: each.clone() for name, each in now.items()}
        for name, each in now.items():
            host.shadow[name].mul_(0.9).add_(each, alpha=0.1)
        return 1 + sum(each.abs().sum().item() for each in host.shadow.values()) / 10


class Count(Idiom):
    def begin(self, host: Any) -> None:
        host.steps = 0

    def factor(self, host: Any) -> Any:
        host.steps += 1
        return 1 + host.steps / 50


class Containers(Idiom):
    class Pair(NamedTuple):
        low: float
        high: float

    def begin(self, host: Any) -> None:
        host.settings = {"temperature": 1.0, "nested": {"list": [1.0, 2.0]}}
        host.recent = deque([1.0], maxlen=3)
        host.counts, host.sums, host.names = Counter(), defaultdict(float), {"x"}
        host.pair = self.Pair(0.0, 1.0)
        host.slots = Slots()
        host.complex, host.raw = 1j, b"a"

    def factor(self, host: Any) -> Any:
        host.settings["temperature"] *= 0.97
        host.settings["nested"]["list"][0] += 0.1
        host.recent.append(host.recent[-1] + 0.1)
        host.counts["batches"] += 1
        host.sums["loss"] += 0.5
        host.names.add(f"x{len(host.names)}")
        host.pair = host.pair._replace(high=host.pair.high + 1)
        host.slots.count += 1
        host.complex *= 1.01
        host.raw += b"a"
        return (
            host.settings["temperature"]
            + host.settings["nested"]["list"][0] / 50
            + sum(host.recent) / 50
            + host.counts["batches"] / 50
            + host.sums["loss"] / 50
            + len(host.names) / 50
            + host.pair.high / 50
            + host.slots.count / 50
            + abs(host.complex) / 50
            + len(host.raw) / 50
        )


class Arrays(Idiom):
    def begin(self, host: Any) -> None:
        host.centre = torch.randn(3)  # from a seed that nobody knows
        host.same_centre = host.centre
        host.moments = np.random.normal(size=4)
        host.scalar = np.float32(1)

    def factor(self, host: Any) -> Any:
        host.same_centre.mul_(0.9).add_(0.05)
        host.moments += 0.1
        host.scalar = np.float32(host.scalar * 1.01)
        return 1 + float(host.centre.abs().sum() + abs(host.moments).sum() + host.scalar) / 50


class Large(Idiom):
    """What is too large to be looked at whole, before each checkpoint."""

    def begin(self, host: Any) -> None:
        host.losses = dict.fromkeys(range(5000), 1.0)
        host.bank = torch.zeros(1 << 21)
        host.table = np.zeros(1 << 20)

    def factor(self, host: Any) -> Any:
        host.losses = {row: loss * 1.01 for row, loss in host.losses.items()}
        host.bank += 0.01
        host.table += 0.01
        return host.losses[7] + float(host.bank[3]) + float(host.table[5])


class Dice(Idiom):
    """Random generators of the user's own, from a seed that is drawn."""

    def begin(self, host: Any) -> None:
        host.torch_dice = torch.Generator().manual_seed(random.randrange(10**6))
        host.numpy_dice = np.random.default_rng(random.randrange(10**6))
        host.old_dice = [np.random.RandomState(random.randrange(10**6))]
        host.python_dice = random.Random(random.randrange(10**6))

    def factor(self, host: Any) -> Any:
        return (
            1
            + torch.rand((), generator=host.torch_dice).item()
            + host.numpy_dice.random()
            + host.old_dice[0].rand()
            + host.python_dice.random()
        )


class InTheModel(Idiom):
    """What a model keeps outside its `state_dict`."""

    def models(self, host: Any, model: nn.Module) -> None:
        model.register_buffer("seen", torch.zeros(()), persistent=False)
        model.temperature = 1.0  # type: ignore[assignment]

    def factor(self, host: Any) -> Any:
        host.infer_model.seen += 1
        host.infer_model.temperature *= 0.97
        return host.infer_model.temperature + host.infer_model.seen.item() / 50


class Frozen(Idiom):
    """Parameters that stop learning after a round."""

    def end(self, host: Any) -> None:
        if host.current_round == 1:
            host.feature_model.weight.requires_grad_(False)


class Closure(Idiom):
    def begin(self, host: Any) -> None:
        count = 0

        def counted() -> float:
            nonlocal count
            count += 1
            return 1 + count / 50

        host.counted = counted

    def factor(self, host: Any) -> Any:
        return host.counted()


class OfTheClass(Idiom):
    def factor(self, host: Any) -> Any:
        type(host).shared_list.append(1.0)
        type(host).shared_count += 1
        return 1 + (sum(host.shared_list) + host.shared_count) / 50


class Global(Idiom):
    def factor(self, host: Any) -> Any:
        host.count_globally()
        return 1 + (COUNT + len(SEEN)) / 50


class Momentum(optim.SGD):
    """An optimizer with attributes of its own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.05)
        self.calls = 0
        self.slow = [[p.detach().clone() for p in g["params"]] for g in self.param_groups]

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        found = super().step(closure)
        if self.calls % 4 == 0:
            with torch.no_grad():
                for group, slow in zip(self.param_groups, self.slow, strict=False):
                    for p, s in zip(group["params"], slow, strict=False):
                        s.add_(p - s, alpha=0.5)
                        p.copy_(s)
        return found


class OwnOptimizer(Idiom):
    def begin(self, host: Any) -> None:
        host.makes = Momentum


class Accumulated(Idiom):
    """Two batches to a step; rounds have three."""

    def begin(self, host: Any) -> None:
        host.every = 2


# Averages copy the model, so what changes it comes before them.
IDIOMS: list[type[Idiom]] = sorted(Idiom.__subclasses__(), key=lambda each: each is not InTheModel)


class Host(TinyHost):
    idioms: tuple[Idiom, ...] = ()
    every = 1
    batches_done = 0
    makes: Any = staticmethod(lambda params: optim.SGD(params, lr=0.1, momentum=0.5))
    shared_list: ClassVar[list[float]] = []
    shared_count = 0

    def __init__(self, folder: Path, *idioms: type[Idiom], **settings: Any) -> None:
        super().__init__(
            folder, max_rounds=ROUNDS, psi_protocol="ecdh", leak_report="off", **settings
        )
        self.idioms = tuple(each() for each in idioms)
        for each in self.idioms:
            each.begin(self)

    def count_globally(self) -> None:
        global COUNT  # noqa: PLW0603
        COUNT += 1
        SEEN.append(1.0)

    def make_infer_model(self) -> nn.Module:
        model = nn.Linear(7, 1)
        for each in self.idioms:
            each.models(self, model)
        return model

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        optimizer: optim.Optimizer = self.makes(infer_model.parameters())
        for each in self.idioms:
            each.optimizers(self, optimizer)
        return optimizer

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        fused = torch.cat(list(feature_projection.values()), dim=1)
        output = self.infer_model(fused).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(output, labels)
        for each in self.idioms:
            loss = loss * each.factor(self)
        loss.backward()  # type: ignore[no-untyped-call]
        self.batches_done += 1
        if self.batches_done % self.every == 0:
            self.optimizer.step()
            self.infer_optimizer.zero_grad()
            if self.feature_optimizer is not None:
                self.feature_optimizer.zero_grad()
        return loss

    def on_round_end(self) -> None:
        for each in self.idioms:
            each.end(self)


class Accumulating(TinyCollaborator):
    """Gradients wait here too, over the ends of rounds."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, leak_report="off")
        self.waiting = 0

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        features.backward(gradients)
        self.waiting += 1
        if self.waiting % 2 == 0:
            self.feature_optimizer.step()
            self.feature_optimizer.zero_grad()


def start_over(seed: int) -> None:
    """What lies in this process, and would be new in another one."""
    global COUNT  # noqa: PLW0603
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    COUNT = 0
    SEEN.clear()
    Host.shared_list.clear()
    Host.shared_count = 0


def done(outcomes: list[Any]) -> list[TaskResult]:
    for each in outcomes:
        if isinstance(each, BaseException):
            raise AssertionError(f"ended by {each!r}") from each
    return outcomes


def assert_same_after_a_kill(folder: Path, idioms: list[type[Idiom]], hook: str, at: int) -> None:
    start_over(seed=1)
    expected = weights(*done(run(Host(folder, *idioms), Accumulating(folder), task="whole")))
    start_over(seed=1)
    killed = Host(folder, *idioms)
    outcome, _ = run(crashing(killed, hook, at), Accumulating(folder))
    assert isinstance(outcome, CrashError), repr(outcome)
    start_over(seed=2)  # so that constructors draw something else
    now = weights(*done(run(Host(folder, *idioms), Accumulating(folder))))
    assert now.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(now[name], expected[name])]
    assert not different


@pytest.mark.long
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("place", [("iterate_train_feature", 3), ("train_a_batch", 8)], ids=str)
def test_all_at_once(place: tuple[str, int], tmp_path: Path) -> None:
    assert_same_after_a_kill(tmp_path, IDIOMS, *place)


@pytest.mark.usefixtures("home")
def test_a_party_that_waits_goes_back_in_the_same_process(tmp_path: Path) -> None:
    """Bob is lost in rounds 1 and 3; the Host goes back to the split, and to round 2."""
    small = [each for each in IDIOMS if each is not Large]
    start_over(seed=1)
    expected = weights(*done(run(Host(tmp_path, *small), Accumulating(tmp_path), task="whole")))
    start_over(seed=1)
    waiting = Host(tmp_path, *small, wait_for_peers=30)
    first = crashing(Accumulating(tmp_path), "update_feature_model", 2)
    second = crashing(Accumulating(tmp_path), "update_feature_model", 8)
    launch = first.launch_task

    def again_and_again(task: str) -> Any:
        for launches in (launch, second.launch_task):
            with pytest.raises(CrashError):
                launches(task)
        return Accumulating(tmp_path).launch_task(task)

    first.launch_task = again_and_again
    now = weights(*done(run(waiting, first)))
    assert not [name for name in expected if not torch.equal(now[name], expected[name])]


@pytest.mark.usefixtures("home")
def test_what_is_too_large_to_go_back_is_refused_in_the_same_process(tmp_path: Path) -> None:
    waiting = Host(tmp_path, Large, wait_for_peers=30)
    bob = crashing(Accumulating(tmp_path), "update_feature_model", 2)
    launch = bob.launch_task

    def again(task: str) -> Any:
        with pytest.raises(CrashError):
            launch(task)
        return Accumulating(tmp_path).launch_task(task)

    bob.launch_task = again
    at_host, _ = run(waiting, bob)
    assert type(at_host) is e.ResumeError
    assert "before self." in str(at_host)


class Stream(Idiom):
    """An iterator that nobody can ask where it stands."""

    def begin(self, host: Any) -> None:
        host.stream = iter(torch.utils.data.DataLoader(torch.ones(99)))  # type: ignore[arg-type]

    def factor(self, host: Any) -> Any:
        return next(host.stream).item()


class Generated(Idiom):
    def begin(self, host: Any) -> None:
        host.factors = {"each": (1 + number / 50 for number in itertools.count())}

    def factor(self, host: Any) -> Any:
        return next(host.factors["each"])


class Opaque:
    """Gives a state that no checkpoint can hold."""

    def state_dict(self) -> Any:
        return {"me": self}

    def load_state_dict(self, state: Any) -> None:
        raise NotImplementedError


class OpaqueState(Idiom):
    def begin(self, host: Any) -> None:
        host.opaque = [Opaque()]


REFUSED = {Stream: "self.stream", Generated: "self.factors['each']", OpaqueState: "self.opaque[0]"}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("idiom", REFUSED, ids=lambda each: each.__name__)
def test_what_cannot_be_kept_is_refused_before_the_first_step(
    idiom: type[Idiom], tmp_path: Path
) -> None:
    at_host, at_bob = run(Host(tmp_path, idiom), Accumulating(tmp_path))
    assert type(at_host) is e.ConfigError
    assert f"no checkpoint can keep {REFUSED[idiom]} (" in str(at_host)
    assert "extra_state" in str(at_host)
    assert isinstance(at_bob, e.TaskAborted)

    class Covered(Host):
        def extra_state(self) -> Any:
            return {"mine": 1}

    done(run(Covered(tmp_path, idiom), Accumulating(tmp_path), task="covered"))


class LateModule(Idiom):
    """A module that is made when it is first needed."""

    def factor(self, host: Any) -> Any:
        if not hasattr(host, "late"):
            host.late = nn.Linear(1, 1)
        with torch.no_grad():
            host.late.bias.add_(0.1)
        return 1 + host.late.bias.item()


class LateStream(Idiom):
    def factor(self, host: Any) -> Any:
        if not hasattr(host, "stream"):
            host.stream = itertools.count(1)
        return next(host.stream)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("idiom", "name"), [(LateModule, "late"), (LateStream, "stream")])
def test_what_finds_no_place_is_refused_when_a_run_goes_on(
    idiom: type[Idiom], name: str, tmp_path: Path
) -> None:
    run(crashing(Host(tmp_path, idiom), "train_a_batch", 8), Accumulating(tmp_path))
    at_host, _ = run(Host(tmp_path, idiom), Accumulating(tmp_path))
    assert type(at_host) is e.ResumeError
    assert f"the state of self.{name} " in str(at_host)


@pytest.mark.usefixtures("home")
def test_constants_are_the_scripts_to_change(tmp_path: Path) -> None:
    """A number that no batch changes is not state: the script that goes on may give another one."""
    first = Host(tmp_path)
    first.note = "before"  # type: ignore[attr-defined]
    run(crashing(first, "train_a_batch", 8), Accumulating(tmp_path))
    again = Host(tmp_path)
    again.note = "after"  # type: ignore[attr-defined]
    done(run(again, Accumulating(tmp_path)))
    assert again.note == "after"  # type: ignore[attr-defined]


def main() -> None:
    """One party in a process of its own: role, folder, seed, and `die` where it dies in round 3."""
    role, folder, seed, *die = sys.argv[1:]
    start_over(int(seed))
    scheduler: Any = Host(Path(folder), *IDIOMS) if role == "host" else Accumulating(Path(folder))
    if die:
        killed(scheduler, "train_a_batch" if role == "host" else "update_feature_model")
    scheduler.launch_task("killed")


def killed(scheduler: Any, hook: str) -> None:
    original, calls = getattr(scheduler, hook), [0]

    def call(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(scheduler, hook, call)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda each: each.__name__)
def test_each_idiom(idiom: type[Idiom], tmp_path: Path) -> None:
    assert_same_after_a_kill(tmp_path, [idiom], "train_a_batch", 8)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["host", "collaborator"])
def test_killed_processes(victim: str, parties: Parties, tmp_path: Path) -> None:
    start_over(seed=2)
    expected = weights(*done(run(Host(tmp_path, *IDIOMS), Accumulating(tmp_path), task="whole")))
    for seed, dying in ((2, victim), (1, "")):
        both = [
            parties.start("-m", MODULE, role, str(tmp_path), str(seed), *["die"] * (role == dying))
            for role in ("host", "collaborator")
        ]
        codes = [each.wait(100) for each in both]
        assert (-signal.SIGKILL in codes) == bool(dying), codes
    for name, tensor in expected.items():
        party, model, key = name.split(".", 2)
        saved = torch.load(tmp_path / "killed" / party / f"{model}.pt", weights_only=True)
        assert torch.equal(saved[key], tensor), name


if __name__ == "__main__":
    main()
