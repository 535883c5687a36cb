"""Runs in which the Host gets only the sum of the Collaborators' features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor, nn

from heterofed.compute.pace import Pace
from heterofed.errors import ConfigError, RemoteProtocolError, TaskAborted
from heterofed.files import heterofed_home
from heterofed.hetero_nn.train import host_loop, pacing
from heterofed.hetero_nn.train.split import split
from heterofed.intersection.host import _signed
from heterofed.intersection.ids import own_ids
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.privacy.gradient_defences import IsotropicGaussian
from heterofed.privacy.mask_keys import MaskKey
from heterofed.privacy.masking import Masks, masked_sum
from heterofed.privacy.witness import Witness
from heterofed.protocol.messages import BatchDone, Mark, SeenByOthers, SplitAccepted
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import Agreement
from heterofed.rendezvous.backend import LocalPlace
from heterofed.runs import connect
from heterofed.runs.hook_calls import HookCalls
from heterofed.runs.run import Run
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run, training_by

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


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

    monkeypatch.setattr("heterofed.hetero_nn.train.joint_batch.masked_sum", recording)
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
    first = dict(others[0]._heterofed.run.mask_secrets)  # type: ignore[union-attr]
    _, others, outcomes = play(tmp_path, fusion="masked_sum", max_rounds=1)
    second = others[0]._heterofed.run.mask_secrets  # type: ignore[union-attr]
    assert first.keys() == second.keys() == {"carol", "dave"}
    assert not set(first.values()) & set(second.values())


def test_all_parties_share_their_secrets_in_pairs(tmp_path: Path) -> None:
    _, others, _ = play(tmp_path, fusion="masked_sum", max_rounds=1)
    secrets = {each.feature_key: each._heterofed.run.mask_secrets for each in others}  # type: ignore[union-attr]
    assert secrets["bob"]["carol"] == secrets["carol"]["bob"]
    assert len({value for each in secrets.values() for value in each.values()}) == 3


def test_a_host_that_relays_other_keys_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heterofed.rendezvous import join

    monkeypatch.setattr(
        join, "_mask_keys", lambda _, plan, __: (MaskKey().public,) * len(plan.collaborators)
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
    monkeypatch.setattr("heterofed.rendezvous.join._mask_keys", lambda *_: ())
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


@pytest.mark.parametrize(
    "told", [{"plan": {"seed": 5}}, {"resume": Mark(1)}, {"secret": bytes([1] * 32)}]
)
def test_who_was_told_something_else_shares_no_mask(told: dict[str, Any]) -> None:
    """One party that goes back further than the others would change the sum alone."""
    keys = {name: MaskKey() for name in ("bob", "carol")}
    public = tuple(each.public for each in keys.values())
    plan = Plan(host="alice", collaborators=("bob", "carol"), fusion="masked_sum")
    agreed = Agreement(plan, bytes(16), bytes(32), Mark(2), public)
    other = replace(agreed, plan=structs.replace(plan, **told.pop("plan", {})), **told)

    def shared(name: str, agreement: Agreement) -> bytes:
        place: Any = LocalPlace("tiny", heterofed_home())
        (secret,) = connect._mask_secrets(name, keys[name], agreement, place).values()
        return secret

    assert shared("bob", agreed) == shared("carol", agreed)
    assert shared("bob", agreed) != shared("carol", other)


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


# -- a Host that sends unequal gradients -----------------------------------------------------------


Cheat = Callable[[Party, Peer, int, dict[str, Tensor]], dict[str, Tensor]]


def zeros_to_others(_: Party, peer: Peer, number: int, gradients: dict[str, Tensor]) -> Any:
    """All but bob are to stay as they are, so that the sum moves with bob alone."""
    if peer.name == "bob":
        return gradients
    return {name: torch.zeros_like(each) for name, each in gradients.items()}


def low_bits(_: Party, peer: Peer, number: int, gradients: dict[str, Tensor]) -> Any:
    moved = {name: torch.nextafter(each, each + 1) for name, each in gradients.items()}
    return moved if peer.name == "dave" and number == 2 else gradients


def none_to_one(_: Party, peer: Peer, number: int, gradients: dict[str, Tensor]) -> Any:
    return {} if peer.name == "carol" else gradients


def permuted_rows(_: Party, peer: Peer, number: int, gradients: dict[str, Tensor]) -> Any:
    turned = {name: each.flip(0) for name, each in gradients.items()}
    return turned if peer.name == "bob" else gradients


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("cheat", [zeros_to_others, low_bits, none_to_one, permuted_rows])
def test_unequal_gradients_end_the_task_before_a_step(
    cheat: Cheat, staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen ones for one Collaborator and zeros for others rebuilt its features to 8e-6."""
    honest, steps = host_loop._send_gradients, []

    def send(party: Party, peer: Peer, number: int, gradients: Any, *, done: bool = False) -> None:
        sent = cheat(party, peer, number, gradients)
        if sent or not gradients:
            honest(party, peer, number, sent, done=done)
        else:
            party.post(peer, BatchDone(party.round, number, stepped=True), patient=False)

    monkeypatch.setattr(host_loop, "_send_gradients", send)
    step = HookCalls.call_as

    def counted(self: Any, hook: str, *args: Any, **kwargs: Any) -> Any:
        if hook == "update_feature_model" and getattr(args[0], "__name__", "") == "step":
            steps.append(self._run.party.batch)
        return step(self, hook, *args, **kwargs)

    monkeypatch.setattr(HookCalls, "call_as", counted)
    _, _, outcomes = play(tmp_path, fusion="masked_sum", max_staleness=staleness)
    assert all(isinstance(each, RemoteProtocolError | TaskAborted) for each in outcomes), outcomes
    told = [str(each) for each in outcomes[1:] if "other gradients of a masked sum" in str(each)]
    assert told
    assert all(each.startswith("alice sent ") for each in told)
    bad = 2 if cheat is low_bits else 0
    assert not [batch for batch in steps if batch is None or batch >= bad]


class Whole(TinyCollaborator):
    """Splits as many ids as there are for training as for testing, whatever their names."""

    batch = 1

    def split_dataset(self, ids: Any) -> Any:
        return sorted(ids)[:12], sorted(ids)[12:]


@pytest.mark.parametrize("trains", [True, False])
def test_a_host_that_matches_other_ids_for_each_party_gets_no_sum(
    trains: bool, tmp_path: Path
) -> None:
    """Sums of rows of different people, matched otherwise in the next run, tell them apart."""

    class Matching(SumHost):
        batch = 1
        split_dataset = Whole.split_dataset  # type: ignore[assignment]

    def agree(task: Any, run: Run) -> None:
        party, keeping = run.party, task.keeping
        with party.in_phase("psi"), _signed(run, own_ids(keeping.prepare())) as requests:
            for number, request in enumerate(requests):
                found = request.matches[number::2][:18]
                request.claim(found)
                theirs = split(task.half, [IDS[:50][each] for each in found])
                party.post(party.peers[request.name], theirs)
        for peer in party.peers.values():
            party.take(peer, SplitAccepted)
        keeping.keep_split(18)

    host = Matching(tmp_path, fusion="masked_sum", collaborators=["bob", "carol"])
    training_by(host, _agree_on_ids=agree)
    others = [Whole(tmp_path, name, is_feature_trainable=trains) for name in ("bob", "carol")]
    outcomes = run(host, *others)
    assert host.seen
    assert min(float(each.abs().amax()) for each in host.seen) > 1e3  # features are small
    if trains:
        assert any("split other ids" in str(each) for each in outcomes[1:]), outcomes


@pytest.mark.parametrize("lies", [True, False])
def test_a_host_that_has_one_party_step_later_is_noticed(
    lies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else features of one with newer weights are added to those of another with older ones."""
    honest = Party.post

    def post(self: Party, peer: Any, message: Any, *args: Any, **settings: Any) -> None:
        if isinstance(message, BatchDone) and message.staleness and peer.name == "carol" and lies:
            message = structs.replace(message, staleness=2)
        honest(self, peer, message, *args, **settings)

    monkeypatch.setattr(Party, "post", post)
    monkeypatch.setattr(pacing, "PROBE_BATCHES", 2)
    monkeypatch.setattr(Pace, "choose", lambda _: 1)
    _, _, outcomes = play(tmp_path, fusion="masked_sum", max_staleness="auto")
    ended = [isinstance(each, RemoteProtocolError | TaskAborted) for each in outcomes]
    assert ended == [lies] * 4, outcomes
    assert any("alice sent " in str(each) for each in outcomes[1:]) == lies, outcomes


Forge = Callable[[SeenByOthers, dict[int, SeenByOthers]], SeenByOthers]


def made_up(message: SeenByOthers, _: Any) -> SeenByOthers:
    return structs.replace(message, tags=tuple(bytes(32) for _ in message.tags))


def swapped(message: SeenByOthers, _: Any) -> SeenByOthers:
    return structs.replace(message, tags=message.tags[::-1])


def of_an_earlier_batch(message: SeenByOthers, earlier: dict[int, SeenByOthers]) -> SeenByOthers:
    return structs.replace(message, tags=earlier.get(message.batch - 1, message).tags)


@pytest.mark.parametrize("forge", [made_up, swapped, of_an_earlier_batch])
def test_a_host_cannot_make_tags(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, said = Party.post, dict[str, dict[int, SeenByOthers]]()

    def post(self: Party, peer: Any, message: Any, *args: Any, **settings: Any) -> None:
        if isinstance(message, SeenByOthers):
            earlier = said.setdefault(peer.name, {})
            earlier[message.batch] = message
            message = forge(message, earlier)
        honest(self, peer, message, *args, **settings)

    monkeypatch.setattr(Party, "post", post)
    _, _, outcomes = play(tmp_path, fusion="masked_sum")
    assert all(isinstance(each, RemoteProtocolError | TaskAborted) for each in outcomes), outcomes
    assert any("alice sent " in str(each) for each in outcomes[1:])


def test_tags_are_of_one_place_pair_and_direction() -> None:
    secret, seen = bytes(range(32)), bytes(32)
    bob = Witness("bob", ("bob", "carol"), {"carol": secret})
    carol = Witness("carol", ("bob", "carol"), {"bob": secret})
    tags = bob.tags(1, 2, seen)
    carol.check(1, 2, seen, tags, "alice")
    other = Witness("carol", ("bob", "carol"), {"bob": bytes(32)})
    for wrong in (
        lambda: carol.check(1, 3, seen, tags, "alice"),
        lambda: carol.check(2, 2, seen, tags, "alice"),
        lambda: carol.check(1, 2, bytes(31) + b"x", tags, "alice"),
        lambda: bob.check(1, 2, seen, tags, "alice"),  # its own, sent back
        lambda: other.check(1, 2, seen, tags, "alice"),
    ):
        with pytest.raises(RemoteProtocolError, match="alice sent") as caught:
            wrong()  # type: ignore[no-untyped-call]
        assert caught.value.party == "alice"


@pytest.mark.parametrize("settings", [{"max_staleness": 2}, {"max_staleness": "auto"},
    {"checkpoint_batches": 1, "batch_size": 16}, {"compress_gradients": "int8"},
    {"gradient_defence": IsotropicGaussian(0.1)}])  # fmt: skip
def test_equal_gradients_are_found_to_be_equal(settings: dict[str, Any], tmp_path: Path) -> None:
    """Noise, too, is the same for all: else they would average it away together."""
    _, others, outcomes = play(tmp_path, fusion="masked_sum", **settings)
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert all(each._heterofed.run.result.rounds == 2 for each in others)  # type: ignore[union-attr]
