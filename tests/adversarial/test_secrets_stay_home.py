"""Everything that a run wrote and sent is read, and holds none of what must stay at home."""

from __future__ import annotations

import base64
import csv
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import TaskResult
from heterofed.cli.task import accept_task
from heterofed.identity.keys import load_key, new_key
from heterofed.identity.task_file import load_task, task_path
from heterofed.protocol.messages import MESSAGE_TYPES, Message
from heterofed.reporting.egress import COLUMNS, HOLDS
from tests.adversarial.middle import Middle
from tests.adversarial.peers import TASK
from tests.adversarial.test_on_the_way import redirect
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.identity.offices import Command, free_port

COMMON = [f"common person {number:03}" for number in range(40)]
ALICES = [f"only the bank knows {number:03}" for number in range(15)]
BOBS = [f"only the shop knows {number:03}" for number in range(15)]
SAID = "the patient of row 17 has 4711 debts"

labels = torch.rand(100, generator=torch.Generator().manual_seed(1)) + 0.25
inputs = torch.randn(100, 3, generator=torch.Generator().manual_seed(2))


def numbers(ids: list[str]) -> torch.Tensor:
    return torch.tensor([int(each[-3:]) for each in ids])


class Bank(TinyHost):
    def load_local_ids(self) -> list[str]:
        return COMMON + ALICES

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), 16):
            rows = numbers(train_ids[start : start + 16])
            yield feature_model(inputs[rows, :2]), labels[rows]


class Shop(TinyCollaborator):
    def load_local_ids(self) -> list[str]:
        return BOBS + COMMON

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), 16):
            yield feature_model(inputs[numbers(train_ids[start : start + 16])])


class Stumbles(Shop):
    def update_feature_model(self, features: Any, gradients: Any) -> None:
        raise ValueError(SAID)


class Traffic:
    """What both parties said to each other, in the clear, and what they logged and wrote."""

    def __init__(self, home: Path, results: Path, command: Command, log: Any) -> None:
        given = ["--host", "alice", "--address", f"tcp://127.0.0.1:{free_port()}"]
        command("task", "new", TASK, *given, "--collaborator", "bob", "--insecure",
                "--plan", "max_rounds=2", "--plan", "psi_protocol=ecdh")  # fmt: skip
        for party in ("alice", "bob"):
            new_key(party, home)  # lies there, as it would
        address = load_task(task_path(TASK, home)).address
        self._relay = Middle(int(address.rpartition(":")[2]))
        redirect(home, self._relay.port)
        accept_task(TASK, "bob", lambda _terms, _party: True)
        self._home, self._results, self._log = home, results, log

    def of(self, host: Any, shop: Any) -> list[Any]:
        with self._log.at_level(logging.DEBUG):
            results = run(host, shop)
        self._relay.close()
        return results

    @property
    def sent(self) -> bytes:
        return bytes(self._relay.seen["up"] + self._relay.seen["down"])

    @property
    def written(self) -> bytes:
        """Logs at DEBUG and every file but the models and the keys themselves."""
        files = [*self._results.rglob("*"), *self._home.rglob("*")]
        kept = [each for each in files if each.is_file() and each.suffix not in (".pt", ".key")]
        assert {"outbound.csv", "comm.csv", "train.csv", "audit.log"} <= {
            each.name for each in kept
        } or not any("summary.json" in each.name for each in kept)
        log = "\n".join(
            f"{each.getMessage()}{each.exc_text or ''}{each.args}" for each in self._log.records
        )
        return log.encode() + b"".join(each.read_bytes() for each in kept)


@pytest.fixture
def traffic(
    home: Path, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> Traffic:
    return Traffic(home, tmp_path, command, caplog)


def forms(text: str) -> Iterator[bytes]:
    """A text as it is, and as it may be disguised by one who should know better."""
    raw = text.encode()
    yield from (raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), text.encode("utf-16"))
    for name in ("md5", "sha1", "sha256", "blake2b"):
        digest = hashlib.new(name, raw)
        yield from (digest.digest()[:16], digest.hexdigest()[:32].encode())


def columns(values: torch.Tensor) -> Iterator[bytes]:
    """Numbers as they may travel or be written."""
    for value in values.flatten():
        for dtype in (torch.float32, torch.float64):
            yield value.to(dtype).numpy().tobytes()
        yield f"{float(value):.6f}".encode()
        yield repr(float(value)).encode()


@pytest.mark.slow
def test_a_run_that_ends_well(traffic: Traffic, home: Path, tmp_path: Path) -> None:
    results = traffic.of(Bank(tmp_path, insecure=True), Shop(tmp_path, insecure=True))
    assert all(isinstance(each, TaskResult) for each in results), results
    sent, written = traffic.sent, traffic.written
    assert len(sent) > 10_000
    assert len(written) > 2_000
    for each in (*COMMON, *ALICES, *BOBS):
        for form in forms(each):
            assert form not in sent, each
    for each in (*ALICES, *BOBS):
        for form in forms(each):
            assert form not in written, each
    for form in (*columns(labels[:40]), *columns(inputs[:40])):
        assert form not in sent
        assert form not in written
    for party in ("alice", "bob"):
        for form in forms(load_key(party, home).secret):
            assert form not in sent + written


def test_a_run_in_which_a_hook_raises(traffic: Traffic, tmp_path: Path) -> None:
    bank, shop = traffic.of(Bank(tmp_path, insecure=True), Stumbles(tmp_path, insecure=True))
    assert str(shop) == SAID  # to its own user, unchanged
    assert SAID not in str(bank) + repr(bank.__notes__)
    for form in forms(SAID):
        assert form not in traffic.sent + traffic.written
    for word in (b"ValueError", b"debts", b"Stumbles", str(tmp_path).encode()):
        assert word not in traffic.sent


@pytest.mark.slow
def test_these_searches_can_find_something(traffic: Traffic, tmp_path: Path) -> None:
    class Careless(Shop):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            logging.getLogger("heterofed").debug("first is %s", BOBS[3])
            for features in super().iterate_train_feature(feature_model, train_ids):
                kept = torch.zeros_like(features)
                kept[:, 0] = inputs[7, 1]
                yield features * 0 + kept

    traffic.of(Bank(tmp_path, insecure=True), Careless(tmp_path, insecure=True))
    assert any(form in traffic.written for form in forms(BOBS[3]))
    assert any(form in traffic.sent for form in columns(inputs[7, 1]))


# -- outbound.csv --------------------------------------------------------------------------------


def outbound(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "outbound.csv").open(newline="") as file:
        rows = csv.DictReader(file)
        found = {(row["phase"], row["kind"]): row for row in rows}
        assert tuple(rows.fieldnames or ()) == COLUMNS
    return found


@pytest.mark.slow
def test_what_left_is_on_record(office: Path, tmp_path: Path) -> None:
    results = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results
    host, bob = (outbound(each.folder) for each in results)
    for (each, mine), other in (
        ((results[0], host), "bob"),
        ((results[1], bob), "alice"),
    ):
        assert {row["to"] for row in mine.values()} == {other}
        assert sum(int(row["bytes"]) for row in mine.values()) == each.bytes_sent
    assert set(host) >= {("psi", "PsiBlinded"), ("train", "Gradients"), ("finish", "Finish")}
    assert ("train", "Features") not in host
    assert bob["train", "Features"]["holds"] == "features at the cut layer"
    assert bob["train", "Features"]["messages"] == "6"  # 2 rounds of 3 batches
    assert int(bob["train", "Features"]["bytes"]) > 33 * 4 * 4


def test_what_left_is_on_record_where_the_task_fails(office: Path, tmp_path: Path) -> None:
    class Fails(TinyHost):
        def train_a_batch(self, *_: Any) -> None:
            raise KeyError("x")

    run(Fails(tmp_path), TinyCollaborator(tmp_path))
    bob = outbound(tmp_path / TASK / "bob")
    assert int(bob["train", "Features"]["messages"]) >= 1
    assert ("psi", "PsiTags") in outbound(tmp_path / TASK / "bob")
    assert ("train", "Abort") in outbound(tmp_path / TASK / "alice")


SETTINGS = """
    Hello Terms Welcome WelcomeBack Waiting Abort Bye Finish Checkpoint CheckpointHeld RoundEnd
    ProbeBegin ProbeFacts ProbePing ProbePong ProbeResult
    PsiRenew PsiBegin PsiUnblinded PsiTagged CountBegin CountReady StoredOffer StoredBegin
    SplitAccepted PredictAccepted ServeAccepted BeginTrain BeginTest BatchDone EndOfFeatures
    GradientsSeen SeenByOthers DescribeModel WeightsHeld BeginUpdate BeginScores
"""
"""The kinds of message that hold nothing but names, numbers and settings."""


def test_the_content_of_each_kind_of_message_is_named() -> None:
    kinds = {each.__name__ for each in Message.__subclasses__()}
    assert not set(SETTINGS.split()) & set(HOLDS)
    assert {*HOLDS, *SETTINGS.split()} == kinds


def test_a_run_that_goes_on_adds_to_its_record(tmp_path: Path) -> None:
    from heterofed.reporting.egress import Egress

    path = tmp_path / "outbound.csv"
    for _ in range(3):
        mine = Egress()
        mine.note("train", "Features", "alice", 100)
        path.write_bytes(mine.table(path))
    assert outbound(tmp_path)["train", "Features"]["messages"] == "3"
    assert outbound(tmp_path)["train", "Features"]["bytes"] == "300"


def test_only_greetings_are_not_worth_a_file() -> None:
    from heterofed.reporting.egress import GREETINGS, Egress

    mine = Egress()
    for kind in GREETINGS:
        mine.note("join", kind, "alice", 1)
    assert not mine.is_worth_a_file
    assert GREETINGS | set(HOLDS) <= {each.__name__ for each in MESSAGE_TYPES}
