"""Noise in whole runs: never the same for two things, the same again where a run goes on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heterofed import simulate
from heterofed.errors import NonFiniteError, PeerLostError
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import IsotropicGaussian
from tests.e2e.tiny import TinyCollaborator, TinyHost, run, with_settings
from tests.runs.test_resume import CrashError, crashing

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


class Spied(ClippedGaussian):
    """Keeps what it got and what it gave."""

    def __call__(self, rows: Tensor) -> Tensor:
        sent = super().__call__(rows)
        self.seen.append((rows.detach().clone(), sent.detach().clone()))
        return sent

    @property
    def seen(self) -> list[tuple[Tensor, Tensor]]:
        return SEEN


class OwnDefence:
    """A user's, that draws from torch's generator."""

    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:
        sent = gradients + torch.randn_like(gradients)
        SEEN.append((gradients.clone(), sent.clone()))
        return sent


class SpiedIsotropic(IsotropicGaussian):
    def __call__(self, gradients: Tensor, labels: Tensor) -> Tensor:
        sent = super().__call__(gradients, labels)
        SEEN.append((gradients.clone(), sent.clone()))
        return sent


SEEN: list[tuple[Tensor, Tensor]] = []


@pytest.fixture(autouse=True)
def _seen() -> None:
    SEEN.clear()


class Host(TinyHost):
    """Its loss can be scaled: other gradients, other weights, where it goes on."""

    batch, factor = 4, 1.0

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(7, 1)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        fused = torch.cat(list(feature_projection.values()), dim=1)
        output = self.infer_model(fused).squeeze(1)
        loss = self.factor * nn.functional.binary_cross_entropy_with_logits(output, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss


class Collaborator(TinyCollaborator):
    batch = 4


@pytest.mark.parametrize("seed", [None, 0])
def test_train_and_test_batches_get_other_noise(seed: int | None, tmp_path: Path) -> None:
    shop = Collaborator(tmp_path, seed=seed, embedding_defence=Spied(1e3, 1.0))
    simulate(Host(tmp_path, log_rounds=1), [shop], task_id="tiny")
    noises = [sent - rows for rows, sent in SEEN]  # nothing is as long as the clip
    assert len(noises) > 2 * 8  # and tests
    for one, other in itertools.combinations(noises, 2):
        assert not torch.isclose(one[:1], other[:1], atol=1e-3).any()


def undone(tmp_path: Path, host: Host, factor: float, **settings: Any) -> None:
    """Train, die in the third batch, and go on with the loss times a factor."""
    shop = Collaborator(tmp_path, seed=None, **settings)
    with pytest.raises((CrashError, PeerLostError)):  # one of the parties' is shown
        simulate(crashing(host, "train_a_batch", 3), [shop], task_id="tiny")
    defence = host._heterofed.settings.gradient_defence
    again = Host(tmp_path, max_rounds=1, seed=None, gradient_defence=defence)
    again.factor = factor
    simulate(
        again, [Collaborator(tmp_path, seed=None, **settings)], task_id="tiny", resume="require"
    )


@pytest.mark.parametrize("defence", ["embeddings", "gradients", "own"])
def test_a_host_that_goes_back_cannot_subtract(defence: str, tmp_path: Path) -> None:
    """Same batch, same noise, other weights: the difference would be without noise."""
    settings: dict[str, Any] = {}
    host = Host(tmp_path, max_rounds=1, seed=None)
    if defence == "embeddings":
        settings["embedding_defence"] = Spied(1e3, 1e-3)  # of 1: loss and gradients stay
    else:
        spied = OwnDefence() if defence == "own" else SpiedIsotropic(1.0)
        with_settings(host, gradient_defence=spied)
    undone(tmp_path, host, 50.0, **settings)
    before = 3 if defence == "embeddings" else 2
    first, second = SEEN[:before], SEEN[before : 2 * before]
    compared = 0
    for (clean, sent), (other_clean, other_sent) in zip(first, second, strict=True):
        if torch.equal(clean, other_clean):  # the first batch: nothing was learnt before it
            assert torch.equal(sent, other_sent)
            continue
        compared += 1
        noises = torch.stack([(sent - clean).flatten(), (other_sent - other_clean).flatten()])
        assert torch.corrcoef(noises)[0, 1].abs().item() < 0.95  # the same numbers: 1
    assert compared >= 2


@pytest.mark.parametrize("defence", ["embeddings", "gradients"])
def test_a_run_that_goes_on_sends_the_same_again(defence: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    host = Host(tmp_path, max_rounds=1, seed=None)
    if defence == "embeddings":
        settings["embedding_defence"] = Spied(1.0, 0.5)
    else:
        with_settings(host, gradient_defence=SpiedIsotropic(1.0))
    undone(tmp_path, host, 1.0, **settings)
    before = 3 if defence == "embeddings" else 2
    first, second = SEEN[:before], SEEN[before : 2 * before]
    for pair in zip(first, second, strict=True):
        assert all(torch.equal(*each) for each in zip(*pair, strict=True))


@pytest.mark.parametrize("effort", ["off", "sample"])
def test_inputs_are_seen_after_going_back_to_the_split(effort: Any, tmp_path: Path) -> None:
    """Models are made anew then: what watched the old ones sees nothing of theirs."""
    host = TinyHost(tmp_path, collaborators=["bob", "carol"], wait_for_peers=60)
    defence = Decorrelation(1.0)
    bob = TinyCollaborator(tmp_path, embedding_defence=defence, leak_report=effort)
    carol = crashing(TinyCollaborator(tmp_path, "carol"), "update_feature_model", 2)
    dies = carol.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            dies(task)
        return TinyCollaborator(tmp_path, "carol").launch_task(task)

    carol.launch_task = launch
    outcomes = run(host, bob, carol, timeout=120)
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert not bob.feature_model._forward_pre_hooks  # nothing of ours is left behind
    assert outcomes[1].leaks if effort == "sample" else not outcomes[1].leaks


class HalfCollaborator(Collaborator):
    """Its features are float16, which ends at 65,504."""

    def iterate_train_feature(self, feature_model: nn.Module, train_ids: list[str]) -> Any:
        for each in super().iterate_train_feature(feature_model, train_ids):
            yield each.half()


def without_end(gradients: Tensor, labels: Tensor) -> Tensor:
    return gradients / torch.zeros_like(gradients)


@pytest.mark.parametrize("what", ["gradient_defence", "embedding_defence"])
def test_what_a_defence_gives_is_finite_or_does_not_leave(what: str, tmp_path: Path) -> None:
    host, shop = Host(tmp_path, max_rounds=1), Collaborator(tmp_path)
    if what == "gradient_defence":
        with_settings(host, gradient_defence=without_end)
    else:
        shop = HalfCollaborator(tmp_path, embedding_defence=ClippedGaussian(1e6, 1.0))
    outcomes = run(host, shop)
    error = outcomes[0 if what == "gradient_defence" else 1]
    assert isinstance(error, NonFiniteError)
    assert f"what {what} gave" in str(error)
    assert error.party == ("alice" if what == "gradient_defence" else "bob")


class Prying(Collaborator):
    """Moves its features a little, and dies when it has the answer to its first batch."""

    moved, dies = 0.0, True

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **settings)
        self.answers: list[Tensor] = []

    def iterate_train_feature(self, feature_model: nn.Module, train_ids: list[str]) -> Any:
        for each in super().iterate_train_feature(feature_model, train_ids):
            yield each * (1 + self.moved)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.answers.append(gradients.clone())
        if self.dies:
            party = self._heterofed.run.party  # type: ignore[union-attr]
            party.close(0)
            party.abort = lambda *_: None  # type: ignore[method-assign]
            raise CrashError
        super().update_feature_model(features, gradients)


def test_a_collaborator_that_goes_back_gets_the_same_noise(tmp_path: Path) -> None:
    """However it has moved the last digits of its features; else it would average over draws."""
    defence = IsotropicGaussian(1.0)
    host = Host(tmp_path, seed=None, max_rounds=1, wait_for_peers=60, gradient_defence=defence)
    parties: list[Prying] = []

    class Returning:
        feature_key = "bob"

        def launch_task(self, task: str) -> Any:
            for moved in (0.0, 1e-6, -1e-5, 3.0):
                bob = Prying(tmp_path)
                bob.moved, bob.dies = moved, moved != 3.0
                parties.append(bob)
                if bob.dies:
                    with pytest.raises(CrashError):
                        bob.launch_task(task)
            return bob.launch_task(task)

    outcomes = run(host, Returning(), timeout=200)  # type: ignore[arg-type]
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    first, second, third, other = (each.answers[0] for each in parties)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    same = torch.isclose(first, other).all(1)  # whatever became of the other rows
    assert torch.equal(first[same], other[same])
    assert not torch.isclose(first[~same], other[~same]).any()
