"""A server of warmed interpreters: torch is imported once, and each process of a test is a fork.

Importing torch and making a first optimizer takes longer than what most end-to-end tests measure.
What is forked is a process like any other: it has a pid, is killed by real signals, and ends as
the interpreter ends. Start a process cold where the start of the interpreter itself is tested.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOADED = (
    "torch",
    "torch._dynamo",
    "pandas",
    "heterofed.hetero_nn.host",
    "heterofed.simulation.simulate",
)

COLD = ("PYTHON", "OMP_", "MKL_", "LD_", "TORCH")
"""Variables that an interpreter reads when it starts begin so."""


# -- in the test ---------------------------------------------------------------------------------


class Server:
    """The test's end: asks for processes, and hears how they ended."""

    def __init__(self, root: Path) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.warmed", str(theirs.fileno())],
            cwd=root,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._socket = ours
        self._lines = ours.makefile("r", encoding="utf-8")
        self._ended = threading.Condition()
        self._codes: dict[int, int] = {}
        self._pids: list[int] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path) -> int:
        """Start a process like `python ARGUMENTS`; gives its pid."""
        wish = {"arguments": list(arguments), "env": dict(env), "log": str(log), "cwd": str(cwd)}
        with self._ended:
            self._socket.sendall(json.dumps(wish).encode() + b"\n")
            if not self._ended.wait_for(lambda: self._pids, timeout=180):
                raise AssertionError("the server of warmed interpreters does not answer")
            return self._pids.pop()

    def wait(self, pid: int, timeout: float) -> int | None:
        """Exit code, negative for a signal; None where it still runs."""
        with self._ended:
            self._ended.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.get(pid)

    def _listen(self) -> None:
        for line in self._lines:
            told = json.loads(line)
            with self._ended:
                if "code" in told:
                    self._codes[told["pid"]] = told["code"]
                else:
                    self._pids.append(told["pid"])
                self._ended.notify_all()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # then the server ends, and its processes with it
        self._process.wait(30)


# -- in the server -------------------------------------------------------------------------------


def serve(descriptor: int) -> dict[str, Any] | None:
    """Fork a process for each wish; gives its wish in the process, and None at the end."""
    channel = socket.socket(fileno=descriptor)
    waker, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rest, running = b"", set[int]()
    while True:
        ready = select.select([channel.fileno(), waker], [], [])[0]
        if waker in ready:
            os.read(waker, 4096)
            _report_ended(channel, running)
        if channel.fileno() not in ready:
            continue
        came = channel.recv(1 << 16)
        if not came:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return None
        *wishes, rest = (rest + came).split(b"\n")
        for wish in wishes:
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for each in (channel.fileno(), waker, woken):
                    os.close(each)
                channel.detach()
                asked: dict[str, Any] = json.loads(wish)
                return asked
            running.add(pid)
            channel.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _report_ended(channel: socket.socket, running: set[int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        running.discard(pid)
        told = {"pid": pid, "code": os.waitstatus_to_exitcode(status)}
        channel.sendall(json.dumps(told).encode() + b"\n")


def become(wish: Mapping[str, Any]) -> None:
    """Do what `python ARGUMENTS` does."""
    os.chdir(wish["cwd"])
    os.environ.clear()
    os.environ.update(wish["env"])
    log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    kind, *rest = wish["arguments"]
    if kind == "-m":
        sys.argv, sys.path[0] = rest, wish["cwd"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv, sys.path[0] = [kind, *rest], str(Path(kind).absolute().parent)
        runpy.run_path(kind, run_name="__main__")


def warm_up() -> None:
    """Load what parties load; nothing here may start a thread that computes."""
    for name in PRELOADED:
        importlib.import_module(name)
    torch = sys.modules["torch"]
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    gc.freeze()  # or each process would look through all of torch for garbage when it ends


if __name__ == "__main__":
    warm_up()
    if (wished := serve(int(sys.argv[1]))) is not None:
        become(wished)
