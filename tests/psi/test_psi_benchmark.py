"""The benchmark runs, and reads what openssl prints."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
from typing import Any

import pytest

from benchmarks import psi as benchmark
from benchmarks.psi_peers import PEERS, run_peer

RSA_SPEED = """
OpenSSL 3.0.17
                  sign    verify    sign/s verify/s
rsa 2048 bits 0.000113s 0.000004s   8850.3 284900.0
"""
NEWER_RSA_SPEED = """
                   sign    verify    encrypt   decrypt   sign/s verify/s  encr./s  decr./s
rsa  2048 bits 0.000118s 0.000003s 0.000004s 0.000125s   8411.0 291000.0 241000.0   7990.0
"""
X25519_SPEED = """
                              op      op/s
 253 bits ecdh (X25519)   0.0000s  61717.9
"""


@pytest.mark.parametrize(
    ("printed", "wanted", "expected"),
    [
        (RSA_SPEED, "sign/s", 8850.3),
        (NEWER_RSA_SPEED, "sign/s", 8411.0),
        (X25519_SPEED, "op/s", 61717.9),
    ],
)
def test_reads_openssl_speed(printed: str, wanted: str, expected: float) -> None:
    assert benchmark.read_speed(printed, wanted) == expected


def test_ids_are_distinct_and_half_of_them_shared() -> None:
    for count in (0, 1, 1000, 1_000_003):
        if count <= 1000:
            assert len(set(benchmark.ids_of(count, 5))) == count
    assert len({*benchmark.ids_of(100, 50)} & {*benchmark.ids_of(100, 0)}) == 50


def test_a_peer_that_is_not_there_is_an_error_in_the_result() -> None:
    args = argparse.Namespace(ids=3, peer_ids=3, peer_python="python3")
    assert "unknown" in run_peer("nobody", args)["error"]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_two_processes(
    protocol: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    command = ["psi", "--ids=30", "--peer-ids=20", f"--protocol={protocol}", "--json"]
    monkeypatch.setattr("sys.argv", command)
    benchmark.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result.keys() >= {
        *("wall_s", "cpu_s", "bytes_per_id", "peak_mb", "intersection"),
        *("floor_s", "floor_ratio", "peers"),
    }
    assert result["intersection"] == 10
    assert result["floor_s"] is None
    assert (result["cpu_floor_s"] is None) == (protocol == "rsa")
    payload = (512 if protocol == "rsa" else 64) * 30 + 16 * 20 + 16 * 10
    key = 2570 if protocol == "rsa" else 52
    sent = result["bytes_per_id"] * 50
    assert payload + key < sent <= payload + key + 12 * 8
    benchmark.show(result)
    assert "no openssl" in capsys.readouterr().out


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("early", [True, False])
def test_a_party_that_dies_ends_it(
    victim: int, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    begin, pump = subprocess.Popen, benchmark.pump

    def note(*args: Any, **settings: Any) -> subprocess.Popen[str]:
        started.append(begin(*args, **settings))
        if early and len(started) == 2:
            started[victim].kill()
        return started[-1]

    def dies(*ends: Any) -> None:  # both parties are connected
        started[victim].kill()
        pump(*ends)

    monkeypatch.setattr(subprocess, "Popen", note)
    monkeypatch.setattr(benchmark, "pump", dies)
    args = argparse.Namespace(ids=20_000, peer_ids=20_000, protocol="ecdh", workers=1)
    args.bucket_ids = 100_000
    with pytest.raises(SystemExit, match="a party failed"):
        benchmark.run_ours(args)
    assert [each.returncode for each in started][victim] == -9
    assert all(each.returncode for each in started)


def test_a_link_ends_with_the_other_party() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as here,
    ):
        link = benchmark.Link(here)
        with server.accept()[0] as there:
            there.sendall((3).to_bytes(4, "big") + b"all" + (9).to_bytes(4, "big") + b"half")
        assert link.receive() == b"all"
        with pytest.raises(SystemExit, match="the other party is gone"):
            link.receive()


@pytest.mark.slow
def test_results_stand_beside_those_of_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tells = "print(json.dumps({'wall_s': 1.5, 'intersection': %d}))"
    for name, found in (("right", 10), ("wrong", 9)):
        monkeypatch.setitem(PEERS, name, "import json\n" + tells % found)
    # With -multi both cores count together, by the wall clock; without it one, by its own time.
    monkeypatch.setattr(
        benchmark,
        "openssl_speed",
        lambda processes, *given: [RSA_SPEED if "-multi" in given else NEWER_RSA_SPEED] * processes,
    )
    command = ["psi", "--ids=30", "--peer-ids=20", "--peers=right,wrong,nobody", "--json"]
    monkeypatch.setattr("sys.argv", command)
    benchmark.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["peers"] == {"right": 1.5, "wrong": None, "nobody": None}
    assert result["peer_errors"]["wrong"] == "it found 9 ids in common, and we 10"
    assert result["openssl_cpu_us_per_op"] == pytest.approx(1e6 / 8411.0)
    assert result["floor_s"] == pytest.approx(50 / 8850.3)
    assert 10 < result["signer_cpu_us_per_op"] < 100_000
    benchmark.show(result)
    shown = capsys.readouterr().out
    assert "us of the signer, 119 us of openssl" in shown
    assert "it found 9 ids" in shown
