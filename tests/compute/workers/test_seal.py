"""Only processes of the party are heard: others may connect, and nothing of theirs is unpickled."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from heterofed.compute.workers.seal import FILE, SIZE, Seal, drawn, new_secret, secret_of_user
from heterofed.errors import RankLostError
from tests.e2e.processes import ROOT


def pair(numbers: tuple[bytes, bytes], mine: bytes, theirs: bytes) -> tuple[Seal, Seal]:
    return Seal(mine, numbers, 0, 1), Seal(theirs, numbers, 1, 0)


def test_tags_are_of_one_message_in_one_place_of_one_launch() -> None:
    secret, numbers = drawn(), (drawn(), drawn())
    first, second = pair(numbers, secret, secret)
    tags = [first.tag(b"ab", b"c"), first.tag(b"d"), first.tag(b"d")]
    second.check(tags[0], b"ab", memoryview(b"c"))
    second.check(tags[1], b"d")
    second.check(tags[2], b"d")
    first.check(second.tag(b"x"), b"x")

    def refused(tag: bytes, *parts: bytes, other: Seal | None = None) -> None:
        fresh = other or pair(numbers, secret, secret)[1]
        with pytest.raises(RankLostError, match="not sent by a process of this party"):
            fresh.check(tag, *parts)

    refused(tags[0], b"a", b"bc")  # other parts of the same bytes
    refused(tags[0], b"ab", b"d")
    refused(tags[0][:-1], b"ab", b"c")
    refused(b"", b"ab", b"c")
    refused(tags[1], b"d")  # out of turn
    refused(tags[0], b"ab", b"c", other=pair(numbers, secret, secret)[0])  # turned round
    refused(tags[0], b"ab", b"c", other=second)  # repeated
    refused(tags[0], b"ab", b"c", other=pair((drawn(), numbers[1]), secret, secret)[1])
    refused(tags[0], b"ab", b"c", other=pair(numbers, secret, drawn())[1])


def test_the_secret_is_one_for_all_and_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFED_HOME", str(tmp_path / "home"))
    first = secret_of_user()
    assert len(first) == SIZE
    assert secret_of_user() == first
    path = tmp_path / "home" / "keys" / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_bytes(b"short")
    with pytest.raises(RankLostError, match="remove it"):
        secret_of_user()
    path.unlink()
    assert new_secret(path.parent) != first


RANK = """
import os, sys
from datetime import timedelta
from pathlib import Path
from torch import distributed as dist
from heterofed.compute.workers.children import connect
from heterofed.compute.workers.exchange import Exchange
from heterofed.errors import RankLostError

rank, store, secret, said = int(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3]), sys.argv[4]
connect(rank, 2, store)
try:
    exchange = Exchange(lambda: 30.0, secret)
    if rank:
        print("sent", flush=True)
        exchange.send(0, ["hello"])
        exchange.close()
    else:
        print(exchange.receive(1)[0])
except RankLostError as error:
    print("refused", error)
"""
"""A rank that hears or says one word."""

STRANGER = """
import os, pickle, sys
import torch
from torch import distributed as dist
from heterofed.compute.workers.children import connect

class Bomb:
    def __reduce__(self):
        return os.mkdir, (sys.argv[4],)

connect(int(sys.argv[1]), 2, sys.argv[2])
group = dist.new_group(backend="gloo")
head = pickle.dumps(Bomb())
sizes = torch.tensor([len(head), 0])
kept = []  # a buffer has to live until it is sent
for each in (bytes(32), bytes(32), sizes.numpy().tobytes() + bytes(64), head):
    there = torch.frombuffer(bytearray(each), dtype=torch.uint8)
    kept.append((there, dist.isend(there, 0, group=group)))
for _ in range(2):
    here = torch.empty(32, dtype=torch.uint8)
    kept.append((here, dist.irecv(here, 0, group=group)))
sys.stdin.read()
"""
"""Another user's program in the place of a rank, without the secret."""


@pytest.mark.slow
@pytest.mark.parametrize("other", ["rank", "stranger"])
def test_a_stranger_in_the_place_of_a_rank_is_not_unpickled(other: str, tmp_path: Path) -> None:
    secret, planted = drawn().hex(), tmp_path / "planted"
    scripts = (RANK, RANK if other == "rank" else STRANGER)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                script,
                str(rank),
                str(tmp_path / "store"),
                secret,
                str(planted),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, script in enumerate(scripts)
    ]
    try:
        said, _ = processes[0].communicate(timeout=150)
    finally:
        for each in processes:
            each.kill()
            each.communicate()
    assert not planted.exists()
    if other == "rank":
        assert said.strip() == "['hello']"
    else:
        assert "refused what came from rank 1 was not sent by a process of this party" in said
