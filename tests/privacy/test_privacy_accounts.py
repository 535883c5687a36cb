"""What `privacy.csv` claims: sampling and rows are those of the run, and no step is forgotten."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heterofed import Batch, TaskResult, simulate
from heterofed.errors import ConfigError, FeatureError, PeerLostError, TaskAborted
from heterofed.privacy.accountant import gaussian_epsilon
from heterofed.privacy.dpsgd import DPSGD, joint_noise, most_participations, poisson_batches
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.label_dp import RandomisedResponse
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run
from tests.privacy.test_privacy_runs import (
    Collaborator,
    Host,
    PoissonCollaborator,
    PoissonHost,
    private,
    table,
    trained,
)
from tests.runs.test_resume import CrashError, crashing

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

TRAIN_IDS = 33  # that the split of the tiny task has


class InLegs(TinyHost):
    """With checkpoints within the round."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        legs = {"batch_size": 4, "checkpoint_batches": 2, "loss_reduction": "mean"}
        super().__init__(folder, max_rounds=1, weights_defence=private(), **legs, **settings)

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(7, 1)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield feature_model(rows(ids, 2, 0)), labels


class CollaboratorInLegs(TinyCollaborator):
    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **{"weights_defence": private(), **settings})

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            yield feature_model(rows(ids, 3, 7))


def test_steps_before_a_checkpoint_within_a_round_count(tmp_path: Path) -> None:
    with pytest.raises((CrashError, PeerLostError)):
        simulate(
            crashing(InLegs(tmp_path), "train_a_batch", 6),
            [CollaboratorInLegs(tmp_path)],
            task_id="tiny",
        )
    host, shop = InLegs(tmp_path), CollaboratorInLegs(tmp_path)
    simulate(host, [shop], task_id="tiny", resume="auto")
    steps = [
        each._heterofed.settings.weights_defence.steps
        for each in (host, shop)
        if each._heterofed.settings.weights_defence
    ]
    assert steps == [-(-TRAIN_IDS // 4)] * 2
    # The rows of the leg that was repeated were stepped on twice, and that is not taken back.
    both = joint_noise([1.0, 1.0])
    for each in (host, shop):
        told = float(table(each.result, "privacy")[-1]["eps_weights"])
        assert told == pytest.approx(gaussian_epsilon(2, 1.0, both, 1e-5))


def test_a_hook_that_steps_twice_on_a_batch_pays_twice(tmp_path: Path) -> None:
    class Twice(InLegs):
        def make_feature_model(self) -> None:  # type: ignore[override]
            return None

        def make_infer_model(self) -> nn.Module:
            return nn.Linear(4, 1)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for ids in self.batches(train_ids):
                yield None, torch.tensor([float(int(each[3:]) % 2) for each in ids])

        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
            super().train_a_batch(feature_projection, labels)
            return super().train_a_batch(feature_projection, labels)

    host = Twice(tmp_path)
    simulate(host, [CollaboratorInLegs(tmp_path)], task_id="tiny")
    assert host._heterofed.settings.weights_defence is not None
    assert host._heterofed.settings.weights_defence.steps == 2 * -(-TRAIN_IDS // 4)
    told = float(table(host.result, "privacy")[-1]["eps_weights"])
    assert told >= gaussian_epsilon(2, 1.0, joint_noise([1.0, 1.0]), 1e-5)


def test_poisson_batches_and_legs_are_refused(tmp_path: Path) -> None:
    claims = CollaboratorInLegs(tmp_path / "a", weights_defence=private(poisson=True))
    outcomes = run(InLegs(tmp_path / "a"), claims)
    assert isinstance(outcomes[1], ConfigError)
    assert "checkpoint_batches" in str(outcomes[1])

    class Draws(CollaboratorInLegs):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for ids in self.poisson_batches(train_ids, 4):
                yield feature_model(rows(ids, 3, 7))

    outcomes = run(InLegs(tmp_path / "b"), Draws(tmp_path / "b", weights_defence=None))
    assert isinstance(outcomes[1], ConfigError)
    assert "checkpoint_batches" in str(outcomes[1])
    assert isinstance(outcomes[0], TaskAborted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"poisson": True, "rows": 1000}, "the split has 33 train ids"),
        ({"rows": 32}, "the split has 33 train ids"),
        ({"poisson": True, "batch_size": 5}, "draws 4 of 33"),
        ({}, "give poisson=True"),
        ({"batch_size": 34}, "give 1 to rows=33"),
    ],
)
def test_an_epsilon_of_another_sampling_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    host = PoissonHost(tmp_path, loss_reduction="mean", weights_defence=private(poisson=True))
    outcomes = run(host, PoissonCollaborator(tmp_path, weights_defence=private(**settings)))
    assert isinstance(outcomes[1], ConfigError), outcomes
    assert words in str(outcomes[1])


def test_sampling_that_is_claimed_and_not_done_is_refused(tmp_path: Path) -> None:
    host = TinyHost(tmp_path / "a", loss_reduction="mean")
    shop = TinyCollaborator(tmp_path / "a", weights_defence=private(poisson=True))
    outcomes = run(host, shop)
    assert isinstance(outcomes[1], ConfigError)
    assert "does not use self.poisson_batches" in str(outcomes[1])

    class Discards(PoissonCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for number, batch in enumerate(super().iterate_train_feature(feature_model, train_ids)):
                more = number == 3
                yield Batch(torch.cat([batch.features, batch.features]) if more else batch.features)

    host = PoissonHost(tmp_path / "b", loss_reduction="mean")
    shop = Discards(tmp_path / "b", weights_defence=private(poisson=True))
    outcomes = run(host, shop)
    assert isinstance(outcomes[1], ConfigError)
    assert "batch 3 has" in str(outcomes[1])


def test_rows_come_from_the_split(tmp_path: Path) -> None:
    shop = PoissonCollaborator(tmp_path, weights_defence=private(poisson=True))
    host = PoissonHost(tmp_path, loss_reduction="mean", weights_defence=private(poisson=True))
    _, result = trained(host, shop)
    known = private(poisson=True, rows=TRAIN_IDS)
    known.steps = -(-TRAIN_IDS // 4)
    epsilons = [float(row["eps_weights"]) for row in table(result, "privacy")]
    assert epsilons[0] == pytest.approx(known.epsilon(1))
    with pytest.raises(ConfigError, match="give rows"):
        alone = private(poisson=True)
        alone.steps = 1
        alone.epsilon(1)


def test_who_trains_without_noise_is_mentioned_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    alone = DPSGD(1.0, 0.5, batch_size=4)
    with caplog.at_level(logging.WARNING, logger="heterofed"):
        trained(
            TinyHost(tmp_path, loss_reduction="mean"),
            TinyCollaborator(tmp_path, weights_defence=alone),
        )
    for words in ("this party trains without", "name that of all others"):
        assert sum(words in each.message for each in caplog.records) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="heterofed"):
        trained(
            PoissonHost(tmp_path, loss_reduction="mean", weights_defence=private(poisson=True)),
            PoissonCollaborator(tmp_path, weights_defence=private(poisson=True)),
        )
    assert not any("eps_weights" in each.message for each in caplog.records)


def test_rows_that_are_drawn_several_times_count_so_often(tmp_path: Path) -> None:
    defence = ClippedGaussian(1.0, 5.0)
    shop = PoissonCollaborator(tmp_path, embedding_defence=defence)
    _, result = trained(PoissonHost(tmp_path), shop)
    secret, most = shop._heterofed.run.agreement.secret, 0  # type: ignore[union-attr]
    found = [float(row["eps_embeddings"]) for row in table(result, "privacy")]
    for number, epsilon in enumerate(found, 1):
        batches = poisson_batches(shop.train_ids, 4, secret=secret, round_number=number)
        most += most_participations(batches)
        assert epsilon == pytest.approx(defence.epsilon(most), rel=1e-9)
    assert most > 2


def test_integers_beside_clipped_embeddings_are_refused(tmp_path: Path) -> None:
    class Ages(Collaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for batch in super().iterate_train_feature(feature_model, train_ids):
                age = torch.tensor([int(each[3:]) for each in batch.ids])
                yield Batch({"h": batch.features, "age": age}, ids=batch.ids)

    outcomes = run(Host(tmp_path), Ages(tmp_path, embedding_defence=ClippedGaussian(1.0, 1.0)))
    assert isinstance(outcomes[1], FeatureError)
    assert "yield no integers" in str(outcomes[1])


class Watching(Host):
    seen: list[tuple[float, float]]

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        truth = [float(int(each[3:]) % 2) for each in self.train_ids[: len(labels)]]
        self.seen += list(zip(truth, labels.tolist(), strict=True))
        return super().train_a_batch(feature_projection, labels)


def test_a_rehearsal_is_no_second_answer(tmp_path: Path) -> None:
    """Of nearly true labels none is told: what travels is made of labels by lot."""
    host = Watching(tmp_path, label_dp=RandomisedResponse(50.0))
    host.batch = 1000
    shop = Collaborator(tmp_path)
    shop.batch = 1000
    answers: list[tuple[float, ...]] = []
    for number in range(3):
        host.seen = []
        simulate(host, [shop], task_id=f"tiny-{number}", rehearse=True)
        answers.append(tuple(used for _, used in host.seen))
        assert len(host.seen) == TRAIN_IDS
    assert len(set(answers)) == 3
    host.seen = []
    simulate(host, [shop], task_id="tiny")
    assert all(true == used for true, used in host.seen)


def results_of(result: TaskResult) -> list[dict[str, str]]:
    with (result.folder / "train.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("offset", [0, 3_000_000_000_000], ids=["small", "large"])
def test_whole_numbers_as_targets_are_no_classes(offset: int, tmp_path: Path) -> None:
    """A regression with targets such as amounts: nothing is allocated per number."""

    class Amounts(Host):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for batch in super().iterate_train_feature(feature_model, train_ids):
                targets = torch.tensor([float(offset + int(each[3:]) // 4) for each in batch.ids])
                yield Batch(batch.features, targets, batch.ids)

        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
            scaled = (labels - offset) / 15
            return super().train_a_batch(feature_projection, scaled)

    bank, _ = trained(Amounts(tmp_path, leak_report="full"), Collaborator(tmp_path))
    assert len(results_of(bank)) == 2
