"""Updates are clipped, noise is added once to their sum, and epsilon only grows."""

from __future__ import annotations

import copy
import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.accountants import RDPAccountant
from torch import nn

from heterofed import errors as e
from heterofed.homo_nn import CentralDP, FedSGD
from heterofed.privacy.accountant import gaussian_delta
from tests.e2e.tiny import run as together
from tests.homo_nn.test_exactness import COUNTS, flat, parties, trained_alone
from tests.homo_nn.tiny import Gradients, Plain, host, model, run, weights_of

NO_NOISE = 1e-9


def simulated(folder: Path, start: nn.Module, kind: type = Plain, **settings: Any) -> Any:
    first = host(folder, len(COUNTS), **{"weighting": "equal", **settings})
    first.make_model = lambda: copy.deepcopy(start)  # type: ignore[method-assign]
    return run(first, parties(folder, kind, steps=3))


def epsilons(folder: Path) -> list[float]:
    with (folder / "tiny" / "head" / "privacy.csv").open(newline="") as file:
        return [float(row["eps_parties"]) for row in csv.DictReader(file)]


@pytest.fixture
def start() -> nn.Linear:
    torch.manual_seed(0)
    return model()


@pytest.mark.parametrize("secure", [False, True])
def test_the_average_is_that_of_clipped_changes(
    secure: bool, tmp_path: Path, start: nn.Linear
) -> None:
    train, shared, clip = trained_alone(start, 3), flat(start), 0.3
    for _ in range(3):
        changes = [each - shared for each in train(shared)]
        norms = [float(each.norm()) for each in changes]
        assert max(norms) > clip, "some change is clipped"
        kept = [each * min(1.0, clip / norm) for each, norm in zip(changes, norms, strict=True)]
        shared = shared + torch.stack(kept).mean(dim=0)
    defence = CentralDP(NO_NOISE, clip, 1e-5)
    done = simulated(tmp_path, start, central_dp=defence, secure_aggregation=secure)
    torch.testing.assert_close(weights_of(done), shared, rtol=0, atol=1e-7)
    assert torch.equal(weights_of(done, "p1"), weights_of(done))


def test_gradients_are_clipped_too(tmp_path: Path, start: nn.Linear) -> None:
    given: dict[str, Any] = {"strategy": FedSGD(1.0), "rounds": 1}
    done = simulated(
        tmp_path, start, Gradients, central_dp=CentralDP(NO_NOISE, 1e-3, 1e-5), **given
    )
    moved = float((weights_of(done) - flat(start)).norm())
    assert 0 < moved <= 1e-3 * (1 + 1e-6)


class Wide(Plain):
    """A model of 4,000 weights that its training leaves as they are."""

    def make_model(self) -> nn.Module:
        return nn.Linear(4000, 1, bias=False, dtype=torch.float64)

    def train_a_round(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            for each in model.parameters():
                each.add_(100.0 / 4000**0.5)  # far above the clip, and the same at all parties
        return {"rows": 8}

    def test(self, model: nn.Module) -> dict[str, float]:
        return {"rows": 8}


def test_noise_is_added_once_to_the_sum(tmp_path: Path) -> None:
    start = nn.Linear(4000, 1, bias=False, dtype=torch.float64)
    done = simulated(tmp_path, start, Wide, central_dp=CentralDP(2.0, 0.5, 1e-5), rounds=1)
    noise = weights_of(done) - flat(start) - 0.5 / 4000**0.5
    assert float(noise.std()) == pytest.approx(2.0 * 0.5 / len(COUNTS), rel=0.05)
    assert abs(float(noise.mean())) < 0.03


def test_epsilon_is_that_of_the_accountants(tmp_path: Path, start: nn.Linear) -> None:
    simulated(tmp_path, start, central_dp=CentralDP(1.5, 0.3, 1e-5), rounds=4)
    found = epsilons(tmp_path)
    for rounds, epsilon in enumerate(found, 1):
        accountant = RDPAccountant()
        accountant.history = [(1.5, 1.0, rounds)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = accountant.get_epsilon(1e-5)
        assert 0.8 * bound < epsilon <= bound
        assert gaussian_delta(epsilon, rounds**0.5 / 1.5) == pytest.approx(1e-5, rel=0.02)
    assert len(found) == 4


def test_epsilon_counts_all_runs_and_ends_the_task_before_a_release(
    tmp_path: Path, start: nn.Linear, home: Path
) -> None:
    given: dict[str, Any] = {"central_dp": CentralDP(1.5, 0.3, 1e-5), "rounds": 2}
    first = [host(tmp_path, 3, weighting="equal", **given), *parties(tmp_path)]
    launch(*first)
    before = epsilons(tmp_path)
    again = [host(tmp_path, 3, weighting="equal", **given), *parties(tmp_path)]
    launch(*again, resume="never")
    assert before[0] < before[1] < epsilons(tmp_path)[0] < epsilons(tmp_path)[1]
    limit = epsilons(tmp_path)[1] * 1.01
    given["max_epsilon"] = limit
    last = [host(tmp_path, 3, weighting="equal", **given), *parties(tmp_path)]
    outcomes = launch(*last, resume="never")
    assert isinstance(outcomes[0], e.ReleaseLimitError)
    assert "no average of this round has left" in str(outcomes[0])


def launch(*schedulers: Any, resume: str = "auto") -> list[Any]:
    """Launch all parties as threads."""
    for each in schedulers:
        each.launch_task = _launching(each, resume)
    return together(*schedulers)


def _launching(scheduler: Any, resume: str) -> Any:
    plain = type(scheduler).launch_task
    return lambda task: plain(scheduler, task, resume=resume)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"central_dp": 1.0}, "give CentralDP"),
        ({"weighting": "rows"}, "needs weighting='equal'"),
        ({"central_dp": None, "max_epsilon": 1.0}, "max_epsilon"),
    ],
)
def test_settings_that_do_not_hide_a_party(
    settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    given = {"central_dp": CentralDP(1.0, 1.0, 1e-5), "weighting": "equal", **settings}
    with pytest.raises(e.ConfigError, match=match):
        host(tmp_path, 2, **given).launch_task("tiny")


@pytest.mark.parametrize("numbers", [(0.0, 1.0, 1e-5), (1.0, -1.0, 1e-5), (1.0, 1.0, 1.0)])
def test_numbers_that_make_no_noise(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(e.ConfigError, match="CentralDP"):
        CentralDP(*numbers)


def test_a_model_with_buffers_is_refused(tmp_path: Path) -> None:
    class Normed(Plain):
        def make_model(self) -> nn.Module:
            return nn.Sequential(model(), nn.BatchNorm1d(1).double())

    first = host(tmp_path, 2, weighting="equal", central_dp=CentralDP(1.0, 1.0, 1e-5))
    with pytest.raises(e.ConfigError, match=r"running_mean.* does not"):
        run(first, [Normed(tmp_path, f"p{number}", number) for number in range(2)])
