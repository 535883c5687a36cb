"""A network that is cut hundreds of times during one small task changes nothing but its time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch

from benchmarks.relay import Relay
from heterofed import TaskResult
from tests.e2e.processes import Parties
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.identity.offices import free_port, open_offices


def weights(folder: Path) -> dict[str, bytes]:
    """Every weight of every model of a run, bit for bit."""
    files = sorted(folder.rglob("*_model.pt"))
    return {
        f"{path.relative_to(folder)}/{name}": value.numpy().tobytes()
        for path in files
        for name, value in torch.load(path, weights_only=True).items()
    }


def through_relay(home: Path, *, rounds: int) -> Relay:
    """A task file whose address is a relay's, with the Host behind it."""
    host = f"tcp://127.0.0.1:{free_port()}"
    relay = Relay(host)
    open_offices(home, address=relay.address, bind=host, plan=[f"max_rounds={rounds}"])
    return relay


@pytest.mark.slow
def test_cuts_in_every_phase_change_nothing(home: Path, tmp_path: Path) -> None:
    calm = run(TinyHost(tmp_path / "calm", max_rounds=6), TinyCollaborator(tmp_path / "calm"))
    assert all(isinstance(each, TaskResult) for each in calm)
    with through_relay(home, rounds=6) as relay:
        host = TinyHost(tmp_path / "cut", max_rounds=6)
        bob = TinyCollaborator(tmp_path / "cut")
        for party in (host, bob):
            cut_at_every_batch(party, relay)
        cut = run(host, bob)
    assert all(isinstance(each, TaskResult) for each in cut), cut
    assert relay.cuts >= 20
    assert weights(tmp_path / "cut") == weights(tmp_path / "calm") != {}
    for name in ("quality.csv", "train.csv"):
        found = [next((tmp_path / where).rglob(name)).read_text() for where in ("cut", "calm")]
        assert found[0] == found[1]


def cut_at_every_batch(party: TinyHost | TinyCollaborator, relay: Relay) -> None:
    """Cut at the ids, and wherever a party has computed a batch; every second time mid-message."""
    load, train = party.load_local_ids, party.iterate_train_feature

    def load_local_ids() -> list[str]:
        relay.cut()
        return load()

    def iterate(feature_model: object, train_ids: list[str]) -> object:
        for number, item in enumerate(train(feature_model, train_ids)):
            relay.cut(mid_message=number % 2 == 0)
            yield item

    party.load_local_ids = load_local_ids  # type: ignore[method-assign]
    party.iterate_train_feature = iterate  # type: ignore[method-assign,assignment]


@pytest.mark.long
def test_hundreds_of_random_cuts_between_processes(
    parties: Parties, home: Path, tmp_path: Path
) -> None:
    """Real processes; the relay cuts at random moments, many times a second."""
    results = {name: tmp_path / name for name in ("calm", "cut")}
    rng = random.Random(5)
    for name, folder in results.items():
        if name == "cut":
            relay = through_relay(home, rounds=100)
        host, bob = (
            parties.start("-m", "tests.e2e.tiny", role, "tiny", str(folder), "long")
            for role in ("host", "collaborator")
        )
        if name == "cut":
            host.wait_for("batch 0")
            while relay.cuts < 200 and host.running and bob.running:
                relay.cut(mid_message=relay.cuts % 3 == 0)
                time.sleep(rng.uniform(0, 0.04))
        assert host.wait() == 0, host.output
        assert bob.wait() == 0, bob.output
    relay.close()
    assert relay.cuts >= 200
    assert weights(results["cut"]) == weights(results["calm"]) != {}
