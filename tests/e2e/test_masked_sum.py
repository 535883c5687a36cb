"""Runs in which the Host gets only the sum of the Collaborators' features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heterofed.errors import ConfigError, RemoteProtocolError, TaskAborted
from heterofed.party import Party
from heterofed.privacy.mask_keys import MaskKey
from heterofed.privacy.masking import Masks, masked_sum
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")


class SumHost(TinyHost):
    """Adds the Collaborators' features up, where they have not come as a sum."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **{"collaborators": ["bob", "carol", "dave"], **settings})
        self.seen: list[Tensor] = []

    def fused(self, projection: dict[str, Tensor]) -> dict[str, Tensor]:
        theirs = [each for name, each in projection.items() if name != "alice"]
        self.seen.append(sum(each.detach() for each in theirs))  # type: ignore[arg-type]
        return {"alice": projection["alice"], "sum": sum(theirs)}  # type: ignore[dict-item]

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        return super().train_a_batch(self.fused(feature_projection), labels)

    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        super().test([self.fused(each) for each in batched_feature_projections], batched_labels)


def play(folder: Path, **settings: Any) -> tuple[SumHost, list[TinyCollaborator], list[Any]]:
    host = SumHost(folder, **settings)
    others = [TinyCollaborator(folder, name) for name in ("bob", "carol", "dave")]
    return host, others, run(host, *others)


def weights(*models: nn.Module) -> Tensor:
    return torch.cat([nn.utils.parameters_to_vector(each.parameters()) for each in models])


def test_a_masked_sum_trains_as_an_open_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[Tensor] = []

    def recording(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        came.extend(parts)
        return masked_sum(parts, dtype)

    monkeypatch.setattr("heterofed.hetero_nn.gather.masked_sum", recording)
    trained, seen = [], []
    for fusion in ("separate", "masked_sum"):
        host, others, outcomes = play(tmp_path / fusion, fusion=fusion)
        assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
        trained.append(weights(host.infer_model, *(each.feature_model for each in others)))
        seen.append(host.seen)
    assert torch.allclose(trained[0], trained[1], atol=1e-5)
    assert len(seen[0]) == len(seen[1])
    for open_, masked in zip(*seen, strict=True):
        assert torch.allclose(open_, masked, atol=1e-5)
    # What came from each party, over both rounds and their tests, is noise to the Host.
    sent = torch.cat([each.flatten() for each in came])
    assert sent.dtype == torch.int64
    counts = np.bincount(np.frombuffer(sent.numpy().tobytes(), np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * 22.6
    assert len(set(sent.tolist())) == len(sent)


def test_a_party_that_is_back_masks_with_new_keys(tmp_path: Path) -> None:
    """A batch is masked once; after a new meeting the secrets, and so the masks, are others."""
    _, others, outcomes = play(tmp_path, fusion="masked_sum", max_rounds=1)
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    first = dict(others[0]._run.mask_secrets)  # type: ignore[union-attr]
    _, others, outcomes = play(tmp_path, fusion="masked_sum", max_rounds=1)
    second = others[0]._run.mask_secrets  # type: ignore[union-attr]
    assert first.keys() == second.keys() == {"carol", "dave"}
    assert not set(first.values()) & set(second.values())


def test_all_parties_share_their_secrets_in_pairs(tmp_path: Path) -> None:
    _, others, _ = play(tmp_path, fusion="masked_sum", max_rounds=1)
    secrets = {each.feature_key: each._run.mask_secrets for each in others}  # type: ignore[union-attr]
    assert secrets["bob"]["carol"] == secrets["carol"]["bob"]
    assert len({value for each in secrets.values() for value in each.values()}) == 3


def test_a_host_that_relays_other_keys_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heterofed import rendezvous

    monkeypatch.setattr(
        rendezvous, "_mask_keys", lambda _, plan, __: (MaskKey().public,) * len(plan.collaborators)
    )
    _, _, outcomes = play(tmp_path, fusion="masked_sum")
    assert all(isinstance(each, RemoteProtocolError | TaskAborted) for each in outcomes[1:])
    assert any("another masking key" in str(each) for each in outcomes[1:])


def test_a_host_that_goes_on_without_keys_gets_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a complete run needs none of them; else features would travel as they are."""

    class Fails(SumHost):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                raise ValueError

    def parties(kind: type[SumHost]) -> list[Any]:
        host = kind(tmp_path, fusion="masked_sum", max_rounds=3)
        return [host, *(TinyCollaborator(tmp_path, name) for name in ("bob", "carol", "dave"))]

    run(*parties(Fails))
    sent: list[str] = []
    original = Party.post

    def post(self: Party, peer: Any, message: Any, *args: Any, **kwargs: Any) -> None:
        sent.append(type(message).__name__)
        original(self, peer, message, *args, **kwargs)

    monkeypatch.setattr(Party, "post", post)
    monkeypatch.setattr("heterofed.rendezvous._mask_keys", lambda *_: ())
    outcomes = run(*parties(SumHost))
    assert all(isinstance(each, RemoteProtocolError | TaskAborted) for each in outcomes), outcomes
    assert any("sent no masking keys" in str(each) for each in outcomes[1:])
    assert "WelcomeBack" in sent
    assert "Features" not in sent


def test_features_that_cannot_be_summed(tmp_path: Path) -> None:
    class Odd(TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            return nn.Linear(3, 5)

    for names, odd in (("bob carol", "carol"), ("bob carol dave", "bob")):
        kinds = {name: Odd if name == odd else TinyCollaborator for name in names.split()}
        folder = tmp_path / names
        host = SumHost(folder, collaborators=list(kinds), fusion="masked_sum")
        outcomes = run(host, *(kind(folder, name) for name, kind in kinds.items()))
        assert isinstance(outcomes[0], RemoteProtocolError)
        assert "of one shape" in str(outcomes[0])
        assert {each.party for each in outcomes} == {odd}


def test_settings_are_checked(tmp_path: Path) -> None:
    for settings, words in (
        ({"fusion": "sum"}, "fusion='sum'"),
        ({"fusion": "masked_sum", "collaborators": 1}, "two Collaborators"),
        ({"fusion": "masked_sum", "early_gradients": True}, "no early_gradients"),
    ):
        with pytest.raises(ConfigError, match=words):
            SumHost(tmp_path, **settings).launch_task("tiny")


def test_masks_of_training_and_of_tests_differ() -> None:
    zeros = torch.zeros(4, 4)
    masks = Masks("a", {"b": bytes(32)})
    assert not torch.equal(masks.mask(zeros, "train", 1, 0), masks.mask(zeros, "test", 1, 0))
