"""Searches: one intersection, settings that are tried, and trials that both sides allow."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import optuna
import pytest
import torch
from torch import optim

from heterofed import ConfigError, simulate
from heterofed.errors import NonFiniteError, OtherSettingsError
from heterofed.protocol.messages import PsiBlinded, PsiSigned
from heterofed.tabular import TabularCollaborator, TabularHost
from heterofed.tabular import search as searching
from heterofed.tabular.search import TRIAL, follow_search, search, search_as_host
from tests.e2e.tiny import TinyCollaborator, TinyHost
from tests.tabular.people import loans

pytestmark = pytest.mark.usefixtures("home")


class Host(TinyHost):
    """Learns at a rate that is searched for; a large one diverges."""

    rate = 0.1

    def make_infer_optimizer(self, infer_model: Any) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=self.rate)

    def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
        if self.rate > 10:
            raise NonFiniteError("the loss is NaN")
        return super().train_a_batch(feature_projection, labels)


def made(folder: Path, settings: dict[str, Any], **more: Any) -> Host:
    host = Host(folder, psi_protocol="ecdh", max_rounds=1, leak_report="off", **more)
    host.rate = settings["rate"]
    return host


@pytest.mark.slow
def test_one_intersection_for_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[int] = []

    def counting(*args: Any, **settings: Any) -> Any:
        done = simulate(*args, **settings)
        kinds = (PsiBlinded, PsiSigned)
        said = [each for got in done.received.values() for each in got]
        signed.append(sum(isinstance(each.message, kinds) for each in said))
        return done

    monkeypatch.setattr(searching, "simulate", counting)
    found = search(
        lambda settings: (made(tmp_path, settings), [TinyCollaborator(tmp_path)]),
        {"rate": [0.001, 0.5, 100.0]},
        trials=4,
        score="quality.accuracy",
        direction="maximize",
        seed=1,
    )
    assert signed[0] > 0
    assert signed[1:] == [0] * (len(signed) - 1)
    assert len(found.trials) == 4
    good = [each for each in found.trials if each.settings["rate"] < 10]
    assert found.best.score == max(each.score for each in good)
    assert all(each.score != each.score for each in found.trials if each not in good)
    assert list(found.table().columns) == ["trial", "score", "seconds", "rate"]
    assert found.final.rounds == 1


@pytest.mark.long
def test_tables_are_searched_by_their_validation_rows(tmp_path: Path) -> None:
    mine, theirs = loans(200)
    seen: list[dict[str, str]] = []

    def parties_of(settings: dict[str, Any]) -> Any:
        bank = TabularHost(
            "bank",
            mine,
            ids="customer",
            label="defaulted",
            max_rounds=1,
            psi_protocol="ecdh",
            agreed={TRIAL: "7"},
            results_dir=tmp_path,
            **settings,
        )
        shop = TabularCollaborator("shop", theirs, ids="client", results_dir=tmp_path)
        shop.on_round_end = lambda: seen.append(shop.agreed)  # type: ignore[method-assign]
        return bank, [shop]

    found = search(parties_of, {"width": [8, 16], "learning_rate": (1e-3, 1e-1, "log")}, trials=2)
    assert [each.score > 0 for each in found.trials] == [True, True]
    assert found.best.score == min(each.score for each in found.trials)
    assert seen[0][TRIAL] == "7"
    assert [int(each["width"]) for each in seen] == [
        each.settings["width"] for each in (*found.trials, found.best)
    ]


@pytest.mark.slow
def test_a_search_between_real_parties(tmp_path: Path) -> None:
    told: list[dict[str, str]] = []
    results: list[Any] = []

    class Shop(TinyCollaborator):
        def make_feature_model(self) -> Any:
            told.append(dict(self.agreed))
            return super().make_feature_model()

    follower = Thread(
        target=lambda: results.append(
            follow_search(lambda agreed: Shop(tmp_path, agreed=agreed), trials=2, task_id="both")
        )
    )
    follower.start()
    found = search_as_host(
        lambda settings, agreed: made(
            tmp_path, settings, agreed=agreed | {"rate": str(settings["rate"])}
        ),
        {"rate": (0.001, 1.0, "log")},
        trials=2,
        task_id="both",
        score="quality.accuracy",
        direction="maximize",
    )
    follower.join(60)
    assert results[0].run == found.final.run
    assert [each[TRIAL] for each in told] == ["0", "1", "2"]
    rates = [str(each.settings["rate"]) for each in (*found.trials, found.best)]
    assert [each["rate"] for each in told] == rates
    # What was signed in the first run is not signed again.
    assert found.final.phases["psi"].bytes_sent < 40 * 32


def test_nobody_runs_more_trials_than_it_allowed(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def follow() -> None:
        try:
            follow_search(
                lambda agreed: TinyCollaborator(tmp_path, agreed=agreed), 3, task_id="few"
            )
        except BaseException as error:
            errors.append(error)

    follower = Thread(target=follow)
    follower.start()
    with pytest.raises(OtherSettingsError):
        search_as_host(
            lambda settings, agreed: made(tmp_path, settings, agreed=agreed),
            {"rate": [0.1]},
            4,
            task_id="few",
        )
    follower.join(60)
    assert isinstance(errors[0], OtherSettingsError)


@pytest.mark.parametrize(
    ("tried", "wanted"),
    [
        ([1, "a", None], optuna.distributions.CategoricalDistribution([1, "a", None])),
        (range(1, 8, 2), optuna.distributions.IntDistribution(1, 7, step=2)),
        ((1, 64), optuna.distributions.IntDistribution(1, 64)),
        ((1, 64, "log"), optuna.distributions.IntDistribution(1, 64, log=True)),
        ((0, 0.5), optuna.distributions.FloatDistribution(0, 0.5)),
        ((1e-4, 1e-1, "log"), optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)),
    ],
)
def test_spaces(tried: Any, wanted: Any) -> None:
    assert searching._distributions({"a": tried}) == {"a": wanted}


def parties(_settings: Any) -> Any:
    raise AssertionError("nothing may run")


@pytest.mark.parametrize(
    ("space", "more"),
    [
        ({}, {}),
        ({"a": 3}, {}),
        ({"a": []}, {}),
        ({"a": (2, 1)}, {}),
        ({"a": (0.0, 1.0, "log")}, {}),
        ({"a": (0.1, 1.0, "lin")}, {}),
        ({"a": range(0)}, {}),
        ({"a": [1]}, {"trials": 0}),
        ({"a": [1]}, {"direction": "up"}),
        ({"a": [1]}, {"score": "loss"}),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(space: Any, more: Any) -> None:
    with pytest.raises(ConfigError):
        search(parties, space, **more)


def test_a_score_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no metrics set 'validation'.*'quality'"):
        search(
            lambda settings: (made(tmp_path, settings), [TinyCollaborator(tmp_path)]),
            {"rate": [0.1]},
            trials=1,
        )
    assert torch.is_grad_enabled()
