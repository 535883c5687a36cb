"""The benchmark runs, and reads what openssl prints."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from benchmarks import psi as benchmark

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
    assert "unknown" in benchmark.run_peer("nobody", args)["error"]


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
    payload = (512 if protocol == "rsa" else 64) * 30 + 16 * 20 + 16 * 10
    key = 2570 if protocol == "rsa" else 52
    sent = result["bytes_per_id"] * 50
    assert payload + key < sent <= payload + key + 12 * 8
    benchmark.show(result)
    assert "no openssl" in capsys.readouterr().out
