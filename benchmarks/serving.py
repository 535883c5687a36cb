"""Latency and throughput of a served model: two processes over loopback with CURVE, through HTTP.

    python -m benchmarks.serving --json [--rows 50000] [--seconds 8] [--clients 64] [--max-age 0]

Trains a tabular model by command, serves it by `heterofed serve` at both parties, and asks from
this process. `p50_ms` and `p99_ms` are of one caller who asks for one row after another, each of
them for the first time; `requests_per_s` and `p99_under_load_ms` of many callers at once, one row
each; `batch_rows_per_s` of requests for all rows as JSON, and `arrow_rows_per_s` as Arrow streams.
`load` is the load of the machine before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.ipc

from benchmarks.curve import ROOT, free_port, heterofed
from benchmarks.relay import Relay
from heterofed.serving.arrow_bodies import MEDIA_TYPE

TASK, HOST, SHOP = "serving", "bank", "shop"
LONE_REQUESTS, WARM_UP, BATCHES = 1000, 100, 5


class Parties:
    """The files and processes of both parties in one folder.

    Args:
        folder: the folder; its path must be short.
        rows: the number of rows in common.
        bind: the address at which the bank listens.
        address: the address at which the shop finds it.
    """

    def __init__(self, folder: Path, rows: int, bind: str, address: str) -> None:
        self._folder, self.ids = folder, [f"id-{row:07}" for row in range(rows)]
        self.port = free_port()
        self._env = {**os.environ, "HETEROFED_HOME": str(folder)}
        numbers = np.random.default_rng(0).standard_normal((rows, 12)).astype(np.float32)
        frame = pd.DataFrame(numbers, columns=[f"x{at}" for at in range(12)])
        frame.insert(0, "id", self.ids)
        frame["y"] = (numbers.sum(axis=1) > 0).astype(int)
        frame[["id", *(f"x{at}" for at in range(6)), "y"]].to_csv(folder / "bank.csv", index=False)
        frame[["id", *(f"x{at}" for at in range(6, 12))]].to_csv(folder / "shop.csv", index=False)
        heterofed(folder, "keys", "new", HOST)
        public = heterofed(folder, "keys", "new", SHOP).splitlines()[0]
        heterofed(
            folder,
            *("task", "new", TASK, "--host", HOST, "--address", address, "--bind", bind),
            *("--collaborator", f"{SHOP}={public}", "--plan", "max_rounds=1"),
            *("--plan", "batch_size=1024", "--plan", "psi_protocol=ecdh", "--plan", "shuffle=true"),
        )
        heterofed(folder, "task", "accept", TASK, "--party", SHOP, "--yes")

    def start(self, party: str, *command: str) -> subprocess.Popen[bytes]:
        """Start `heterofed` at a party; its output goes to a file."""
        role = "host" if party == HOST else "collaborator"
        line = [*command, "--role", role, "--party", party, "--results", str(self._folder / "r")]
        with (self._folder / f"{party}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "heterofed", *line],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def train(self) -> None:
        """Train one round by command."""
        common = ["--task", TASK, "--id", "id"]
        shop = self.start(SHOP, "table", "train", str(self._folder / "shop.csv"), *common)
        bank = self.start(
            HOST,
            *("table", "train", str(self._folder / "bank.csv"), *common),
            *("--label", "y", "--rounds", "1", "--batch-size", "1024"),
        )
        if bank.wait() or shop.wait():
            raise SystemExit((self._folder / "bank.log").read_text())

    def serve(self, party: str, *more: str) -> subprocess.Popen[bytes]:
        """Start to serve at a party."""
        if party == HOST:
            more = ("--port", str(self.port), *more)
        return self.start(party, "serve", TASK, str(self._folder / f"{party}.csv"), *more)

    @property
    def token(self) -> str:
        """The token of the server."""
        return (self._folder / "r" / TASK / HOST / "serving/token").read_text()

    def request(self, ids: Sequence[str]) -> bytes:
        """The bytes of a request for some rows."""
        return self._post(json.dumps({"ids": ids}).encode())

    def arrow_request(self, ids: Sequence[str]) -> bytes:
        """The bytes of a request for some rows as an Arrow stream, which is answered by one."""
        table, sink = pyarrow.table({"id": pyarrow.array(ids, pyarrow.string())}), BytesIO()
        with pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return self._post(sink.getvalue(), f"Content-Type: {MEDIA_TYPE}\r\n")

    def _post(self, body: bytes, more: str = "") -> bytes:
        head = (
            f"POST /v1/models/{TASK}:predict HTTP/1.1\r\nHost: localhost\r\n{more}"
            f"Authorization: Bearer {self.token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@contextmanager
def serving(rows: int, rtt: float = 0.0, max_age: int = 3600) -> Iterator[Parties]:
    """Train and serve, and end both parties after the block.

    Args:
        rows: the number of rows in common.
        rtt: seconds of a round trip between the parties, beside that of loopback.
        max_age: seconds for which both keep the features of a row.
    """
    bind = f"tcp://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, ExitStack() as stack:
        relay = stack.enter_context(Relay(bind, rtt=rtt)) if rtt else None
        Path(folder).chmod(0o700)
        parties = Parties(Path(folder), rows, bind, relay.address if relay else bind)
        parties.train()
        kept = ("--max-age", str(max_age))
        limit = ("--max-rows-per-day", "1000000000")
        running = [parties.serve(SHOP, *limit, *kept), parties.serve(HOST, *kept)]
        try:
            wait_until_ready(parties.port)
            yield parties
        finally:
            for each in running:
                each.terminate()
            for each in running:
                each.wait(30)


def wait_until_ready(port: int, seconds: float = 120.0) -> None:
    """Wait until rows can be predicted."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            with Caller(port) as caller:
                if caller.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("never ready")


class Caller:
    """One caller with one connection, who waits for each answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        self._socket.sendall(request)
        came = bytearray()
        while (end := length_of(came)) is None or len(came) < end:
            part = self._socket.recv(1 << 20)
            if not part:
                raise OSError("the server has closed the connection")
            came += part
        return int(came[9:12]), bytes(came[came.index(b"\r\n\r\n") + 4 :])


def length_of(came: bytes | bytearray) -> int | None:
    """The bytes of a whole answer; None before its headers are there."""
    end = came.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(came[:end]).lower()
    return end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])


class Crowd(asyncio.Protocol):
    """One of many callers, who asks again as soon as an answer has come."""

    def __init__(self, requests: Iterator[bytes], found: list[float], ends: float) -> None:
        self._requests, self._found, self._ends = requests, found, ends
        self._came = b""
        self._began = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._came += data
        end = length_of(self._came)
        if end is None or len(self._came) < end:
            return
        now = time.perf_counter()
        if not self._came.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._came.decode()))
            return
        self._found.append(now - self._began)
        self._came = b""
        if now < self._ends:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("closed"))

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(next(self._requests))


async def crowd(port: int, clients: int, requests: Iterator[bytes], seconds: float) -> list[float]:
    """Many callers for some seconds; gives the seconds of each request."""
    found: list[float] = []
    loop, ends = asyncio.get_running_loop(), time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda: Crowd(requests, found, ends), "127.0.0.1", port)
        for _ in range(clients)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return found


def percentile(seconds: Sequence[float], percent: float) -> float:
    """A percentile in milliseconds."""
    return round(float(np.percentile(seconds, percent)) * 1000, 3)


def seconds_of(caller: Caller, request: bytes) -> float:
    """The median seconds of a request."""
    found = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        status, answer = caller.ask(request)
        if status != 200:
            raise SystemExit(answer.decode())
        found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]


def measure(
    rows: int, clients: int, seconds: float, rtt: float = 0.0, max_age: int = 3600
) -> dict[str, Any]:
    """All figures."""
    load = os.getloadavg()[0]
    with serving(rows, rtt, max_age) as parties:
        ones = (parties.request([each]) for _ in range(1000) for each in parties.ids)
        lone = []
        with Caller(parties.port) as caller:
            for number in range(WARM_UP + LONE_REQUESTS):
                request, began = next(ones), time.perf_counter()
                status, answer = caller.ask(request)
                if status != 200:
                    raise SystemExit(answer.decode())
                if number >= WARM_UP:
                    lone.append(time.perf_counter() - began)
            made = [parties.request([each]) for each in parties.ids]
            many = (each for _ in range(1000) for each in made)
            asyncio.run(crowd(parties.port, clients, many, 1.0))
            loaded = asyncio.run(crowd(parties.port, clients, many, seconds))
            batch = seconds_of(caller, parties.request(parties.ids))
            arrow = seconds_of(caller, parties.arrow_request(parties.ids))
    return {
        "rows": rows,
        "clients": clients,
        "cores": os.cpu_count(),
        "load": round(load, 1),
        "rtt_ms": rtt * 1000,
        "max_age": max_age,
        "p50_ms": percentile(lone, 50),
        "p99_ms": percentile(lone, 99),
        "requests_per_s": round(len(loaded) / seconds),
        "p99_under_load_ms": percentile(loaded, 99),
        "batch_rows_per_s": round(rows / batch),
        "arrow_rows_per_s": round(rows / arrow),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rtt-ms", type=float, default=0.0, help="through a relay, if not 0")
    parser.add_argument("--max-age", type=int, default=3600, help="0 computes each row anew")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = parse()
    figures = measure(given.rows, given.clients, given.seconds, given.rtt_ms / 1000, given.max_age)
    if given.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:18} {value}" for name, value in figures.items()))
