"""What a listed party that lies can do to the others, over real sockets: end the task, by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.compute.streams import random_stream
from heterofed.events import PhaseEnded
from heterofed.protocol import messages as m
from tests.adversarial.peers import LyingCollaborator, LyingHost, Victim, connected, hello
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows, slow_batches, training_by
from tests.privacy.test_masked_sum import SumHost

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.slow
def test_stranger_cannot_end_a_running_task(tmp_path: Path, open_links: list[Any]) -> None:
    bob = TinyCollaborator(tmp_path)
    slow_batches(bob, 0.2)
    host, other = Victim(TinyHost(tmp_path, max_rounds=6)), Victim(bob)
    for lie in (m.Abort("non_finite", "train", "bob", 1, 0), m.Bye(), m.PsiKey(3)):
        stranger = connected()
        open_links.append(stranger)
        stranger.say(lie)
    assert isinstance(host.outcome(), TaskResult)
    assert isinstance(other.outcome(), TaskResult)


@pytest.mark.slow
def test_bad_guest_does_not_end_the_join_for_others(tmp_path: Path, open_links: list[Any]) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=2))
    eve = connected()
    open_links.append(eve)
    eve.say(hello("eve"))
    eve.say(m.PsiKey(5), [b"x"])
    time.sleep(0.5)
    guests = [Victim(TinyCollaborator(tmp_path, name)) for name in ("bob", "carol")]
    for each in (host, *guests):
        assert isinstance(each.outcome(), TaskResult)


@pytest.mark.slow
def test_collaborator_speaks_for_itself_alone(tmp_path: Path, open_links: list[Any]) -> None:
    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    carol = Victim(TinyCollaborator(tmp_path, "carol"))
    bob = LyingCollaborator("bob")
    open_links.append(bob.link)
    bob.link.say(m.Abort("non_finite", "train", "carol", 1, 0))
    for each in (host.outcome(), carol.outcome()):
        assert isinstance(each, e.NonFiniteError)
        assert each.party == "bob"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (lambda bob: bob.send(layout="tensor", a=torch.zeros(16, 4)), e.RemoteProtocolError),
        (lambda bob: bob.send(layout="tuple", a=torch.zeros(16, 4)), e.RemoteProtocolError),
        (lambda bob: bob.send(batch=1), e.RemoteProtocolError),
        (lambda bob: bob.send(batch=0, **{"": torch.full((16, 4), torch.nan)}), e.NonFiniteError),
        (lambda bob: bob.send(**{"": torch.zeros(7, 4)}), e.RowCountError),
        (
            lambda bob: bob.link.say(
                m.Features(
                    1, 0, 16, "tensor", (m.TensorSpec("", "float32", (16, 0, 2**40, 2**40)),)
                )
            ),
            e.RemoteProtocolError,
        ),
        (
            lambda bob: bob.link.say(
                m.Features(1, 0, 16, "tensor", (m.TensorSpec("", "bool", (16, 1)),)), [b"\2" * 16]
            ),
            e.RemoteProtocolError,
        ),
        (lambda bob: bob.link.say(m.BatchDone(1, 0, True)), e.RemoteProtocolError),
        (lambda bob: bob.link.say(hello()), e.RemoteProtocolError),
    ],
)
def test_lies_in_training_name_the_liar(
    lie: Any, kind: type[e.TaskFailed], tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    lie(bob)
    outcome = host.outcome()
    assert isinstance(outcome, kind), repr(outcome)
    assert outcome.party == "bob"
    assert not isinstance(outcome, e.TaskAborted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lie",
    [
        lambda bob: bob.send(layout="dict", foo=torch.zeros(16, 4, dtype=torch.int64)),
        lambda bob: bob.send(
            layout="dict", **{"": torch.zeros(16, 4, dtype=torch.int64), "b": torch.zeros(16, 4)}
        ),
        lambda bob: bob.send(),
        lambda bob: bob.send(**{"": torch.zeros(16, 5, dtype=torch.int64)}),
    ],
    ids=["another name", "one more", "floats", "another width"],
)
def test_lies_in_a_masked_sum_name_the_liar(
    lie: Any, tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(SumHost(tmp_path, collaborators=["carol", "bob"], fusion="masked_sum"))
    carol = Victim(TinyCollaborator(tmp_path, "carol"))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    lie(bob)
    for each in (host.outcome(), carol.outcome()):
        assert isinstance(each, e.RemoteProtocolError), repr(each)
        assert each.party == "bob"


@pytest.mark.slow
def test_a_masking_key_of_small_order_names_its_sender(
    tmp_path: Path, open_links: list[Any]
) -> None:
    host = Victim(SumHost(tmp_path, collaborators=["bob", "carol"], fusion="masked_sum"))
    carol = Victim(TinyCollaborator(tmp_path, "carol"))
    link = connected()
    open_links.append(link)
    link.say(hello(mask_key=bytes(32)))
    for each in (host.outcome(), carol.outcome()):
        assert isinstance(each, e.RemoteProtocolError), repr(each)
        assert each.party == "bob"


@pytest.mark.slow
def test_one_that_comes_again_and_again_is_there_once(
    tmp_path: Path, open_links: list[Any]
) -> None:
    scheduler: Any = TinyHost(tmp_path, collaborators=["bob", "carol"])
    host, said = Victim(scheduler), hello()
    for _ in range(5):
        link = connected()
        open_links.append(link)
        link.say(said)
        link.pump()
    party = scheduler._heterofed.run.party
    newest = open_links[-1]
    deadline = time.monotonic() + 20
    while not all(each.lost for each in open_links[:-1]) and time.monotonic() < deadline:
        for each in open_links:
            each.pump()
    assert not newest.lost
    assert list(party.peers) == ["bob"]
    assert list(party._by_channel.values()) == list(party.peers.values())
    newest.say(m.PsiKey(3))  # out of turn: it is sent away, and the join goes on
    for guest in [Victim(TinyCollaborator(tmp_path, name)) for name in ("bob", "carol")]:
        assert isinstance(guest.outcome(meanwhile=newest.pump), TaskResult)
    assert isinstance(host.outcome(), TaskResult)


@pytest.mark.slow
def test_batches_beyond_the_credit_name_the_liar(tmp_path: Path, open_links: list[Any]) -> None:
    told = threading.Event()

    class Late(TinyCollaborator):  # until her features come, no batch is dealt with
        def iterate_train_feature(self, *args: Any) -> Iterator[Any]:
            told.wait(60)
            return super().iterate_train_feature(*args)

    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"]))
    carol = Victim(Late(tmp_path, "carol"))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    bob.send()
    bob.send(batch=1)
    outcome = host.outcome()
    told.set()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert outcome.party == "bob"
    assert "credit" in str(outcome)
    assert isinstance(carol.outcome(), e.TaskAborted)


@pytest.mark.slow
def test_dtype_may_not_change_between_batches(tmp_path: Path, open_links: list[Any]) -> None:
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    bob.send()
    bob.link.hear(m.Gradients)
    bob.send(batch=1, **{"": torch.zeros(16, 4, dtype=torch.float64)})
    outcome = host.outcome()
    assert isinstance(outcome, e.RemoteProtocolError)
    assert outcome.party == "bob"


@pytest.mark.slow
def test_key_of_another_size_than_the_plan_says(tmp_path: Path, open_links: list[Any]) -> None:
    host = Victim(TinyHost(tmp_path))
    bob = LyingCollaborator()
    open_links.append(bob.link)
    with pytest.raises(AssertionError):  # the Host hangs up on it
        bob.intersect(bits=3072)
    outcome = host.outcome()
    assert isinstance(outcome, e.PSIFailedError)
    assert outcome.party == "bob"


@pytest.mark.slow
def test_no_goodbye_takes_nothing_from_the_host(tmp_path: Path, open_links: list[Any]) -> None:
    class Brief(TinyHost):
        def iterate_train_feature(self, *_: Any) -> Iterator[Any]:
            yield torch.zeros(16, 3), torch.zeros(16)

        def iterate_test_feature(self, *_: Any) -> Iterator[Any]:
            yield torch.zeros(16, 3), torch.zeros(16)

    host = Victim(Brief(tmp_path, max_rounds=1))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    link = bob.link
    bob.send()
    link.hear(m.Gradients)
    link.say(m.EndOfFeatures(1, 1))
    link.hear(m.BeginTest)
    bob.send()
    link.hear(m.BatchDone)
    link.say(m.EndOfFeatures(1, 1))
    link.hear(m.RoundEnd)
    link.say(m.CheckpointHeld(1))
    link.hear(m.Finish)
    link.say(m.Abort("hook", "train", "bob"))
    outcome = host.outcome()
    assert isinstance(outcome, TaskResult)
    assert (outcome.folder / "summary.json").exists()


@pytest.mark.slow
def test_one_that_vanishes_holds_up_no_other_goodbye(tmp_path: Path) -> None:
    class Slow(TinyCollaborator):
        def on_round_end(self) -> None:
            time.sleep(1)

    def vanish(_task: Any, run: Any, _host: Any, _told: Any) -> None:
        run.party.close(0)
        raise RuntimeError("gone")

    host = Victim(TinyHost(tmp_path, collaborators=["bob", "carol"], calculation_timeout=60))
    bob, carol = (
        Victim(Slow(tmp_path)),
        Victim(training_by(TinyCollaborator(tmp_path, "carol"), _finish=vanish)),
    )
    assert isinstance(host.outcome(20), TaskResult)
    assert isinstance(bob.outcome(), TaskResult)
    assert isinstance(carol.outcome(), RuntimeError)


# -- a Host that lies -----------------------------------------------------------------------


def test_budget_holds_against_a_host_of_many_names(tmp_path: Path) -> None:
    learned = []
    for name in ("mallory1", "mallory2"):
        bob = Victim(TinyCollaborator(tmp_path, max_peer_ids=50))
        host = LyingHost(name)
        try:
            host.welcome()
            learned.append(host.intersect(claim=False))
        except AssertionError:
            pass
        finally:
            host.close()
        assert isinstance(bob.outcome(), e.TaskFailed)
    assert learned == [IDS[10:50]]


def test_host_cannot_work_back_to_raw_rows_from_known_weights(tmp_path: Path) -> None:
    raw = rows(IDS[10:14], 3, 7)

    class Fixed(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            yield feature_model(raw)

    bob, host = Victim(Fixed(tmp_path, seed=None)), LyingHost(seed=0)
    host.welcome().to_train()
    _, payload = host.link.hear(m.Features)
    with random_stream(0, "bob", "make_feature_model", 0, 0):
        guess = nn.Linear(3, 4)
    sent = torch.frombuffer(bytearray(payload), dtype=torch.float32).reshape(-1, 4)
    shifted = (sent - guess.bias.detach()).T
    rebuilt = torch.linalg.lstsq(guess.weight.detach(), shifted).solution.T
    assert (rebuilt - raw).abs().max() > 0.05
    host.close()
    assert isinstance(bob.outcome(), e.TaskFailed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        ({"max_peer_ids": 1}, e.PSIFailedError),
        ({"collaborators": ("somebody",)}, e.RemoteProtocolError),
        ({"collaborators": ("bob", "bob")}, e.RemoteProtocolError),
        ({"host": "bob"}, e.RemoteProtocolError),
    ],
)
def test_absurd_plans(plan: dict[str, Any], kind: type[e.TaskFailed], tmp_path: Path) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost(**plan)
    host.welcome()
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, kind), repr(outcome)
    assert outcome.party != "bob"


@pytest.mark.slow
def test_host_holds_to_its_plan(tmp_path: Path) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost(max_rounds=1)
    host.welcome().to_train()
    host.link.hear(m.Features)
    host.link.say(m.BatchDone(1, 0, stepped=False))
    for batch in (1, 2):
        if host.link.hear(m.Features)[0].batch == batch:
            host.link.say(m.BatchDone(1, batch, stepped=False))
    host.link.hear(m.EndOfFeatures)
    host.link.say(m.BeginTrain(2))
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError)
    assert "more rounds than the plan says" in str(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["separate", "masked_sum"])
def test_host_has_a_round_tested_once(fusion: str, tmp_path: Path) -> None:
    # One that trains would compare its gradients with carol's, who is not there.
    bob = Victim(TinyCollaborator(tmp_path, is_feature_trainable=fusion == "separate"))
    host = LyingHost(fusion=fusion, collaborators=("bob", "carol"))
    link = host.welcome().to_train().link
    for batch in range(3):
        assert link.hear(m.Features)[0].batch == batch
        link.say(m.BatchDone(1, batch, stepped=False))
    link.hear(m.EndOfFeatures)
    link.say(m.BeginTest(1))
    link.hear(m.Features)
    link.say(m.BatchDone(1, 0, stepped=False))
    link.hear(m.EndOfFeatures)
    link.say(m.BeginTest(1))
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert outcome.party == "alice"
    assert "a second time for this round" in str(outcome)


@pytest.mark.slow
def test_host_holds_to_the_agreed_staleness(tmp_path: Path) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost(max_staleness=2)
    host.welcome().to_train(staleness=3)
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError)
    assert "another staleness than agreed" in str(outcome)


@pytest.mark.long
def test_peer_that_reads_nothing_is_given_up_by_name(tmp_path: Path, open_links: list[Any]) -> None:
    host = Victim(TinyHost(tmp_path, calculation_timeout=2, data_channel_timeout=(30, 2)))
    bob = LyingCollaborator().to_train()
    open_links.append(bob.link)
    bob.send(
        batch=0, **{"": torch.zeros(16, 1_400_000)}
    )  # its gradient fills every queue on the way
    while bob.link.channel.pending:
        bob.link.endpoint.flush(0.5)
    outcome = host.outcome(60)
    assert isinstance(outcome, e.PeerTimeoutError), repr(outcome)
    assert outcome.party == "bob"
    assert "taken nothing" in str(outcome)


@pytest.mark.slow
def test_nan_gradients_are_the_hosts(tmp_path: Path) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost()
    host.welcome().to_train()
    features, payload = host.link.hear(m.Features)
    size = len(payload) // 4
    bad = torch.full((size,), torch.nan).numpy().tobytes()
    host.link.say(m.Gradients(1, 0, features.tensors), [bad])
    outcome = bob.outcome()
    host.close()
    assert type(outcome) is e.NonFiniteError
    assert outcome.party == "alice"


@pytest.mark.long
def test_finish_that_came_before_the_loss_counts(tmp_path: Path) -> None:
    def busy(event: Any) -> None:
        if isinstance(event, PhaseEnded) and event.phase == "checkpoint":
            time.sleep(6)  # Finish and the end of the connection come meanwhile

    class Short(TinyHost):
        def is_task_finished(self) -> bool:
            return True

    host = Victim(Short(tmp_path, max_rounds=1, calculation_timeout=3, psi_protocol="ecdh"))
    bob = Victim(TinyCollaborator(tmp_path, callbacks=[busy]))
    assert isinstance(host.outcome(), TaskResult)
    result = bob.outcome()
    assert isinstance(result, TaskResult), repr(result)
    assert result.models["feature_model"].exists()
