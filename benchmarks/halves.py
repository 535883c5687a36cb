"""The split MNIST task for benchmarks: parties that stay alive between runs, and the joined model.

Each party is a process of its own that imports torch and reads the images once; runs are then asked
of it by lines of JSON. Ids are intersected by a handful of names that stand for all rows, so that
a run begins with training. Parties have a HETEROFED_HOME each: where both name the same socket they
meet directly, else through a relay between the two.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMES = [f"name-{number}" for number in range(8)]


def train_jointly(halves: Any, *, rounds: int, threads: int, batch: int) -> dict[str, Any]:
    """The joined model in one process, by plain PyTorch: the yardstick."""
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import optim

    from examples.mnist_split.nets import HalfNet, TopNet

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    torch.manual_seed(1)
    left, right, top = HalfNet(), HalfNet(), TopNet()
    optimizers = [
        optim.SGD(left.parameters(), lr=0.01, momentum=0.5),
        optim.SGD(right.parameters(), lr=0.01, momentum=0.1),
        optim.SGD(top.parameters(), lr=0.01, momentum=0.1),
    ]
    train, test = ids_of(halves["left"])
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for start in range(0, len(train), batch):
            ids = train[start : start + batch]
            (ours, labels), (theirs, _) = halves["left"].rows(ids), halves["right"].rows(ids)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = F.nll_loss(top(torch.cat([left(ours), right(theirs)], dim=1)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            loss.item()  # recorded, as in a split run
        seconds.append(time.perf_counter() - began)
    for net in (left, right, top):
        net.eval()
    with torch.no_grad():
        (ours, labels), (theirs, _) = halves["left"].rows(test), halves["right"].rows(test)
        right_ones = top(torch.cat([left(ours), right(theirs)], dim=1)).argmax(dim=1) == labels
    torch.set_num_threads(before)
    return {"seconds": seconds, "accuracy": float(right_ones.float().mean())}


def ids_of(half: Any) -> tuple[list[str], list[str]]:
    """Sorted train and test ids."""
    from examples.mnist_split.data import split_ids

    train, test = split_ids(half.ids)
    return sorted(train), sorted(test)


def train_split(role: str, half: Any, order: dict[str, Any], results: Path) -> dict[str, Any]:
    """One party's part in one run."""
    from examples.mnist_split.collaborator import MnistCollaborator
    from examples.mnist_split.host import MnistHost
    from heterofed.events import PhaseEnded, RoundEnded

    ended: list[PhaseEnded] = []
    accuracy: list[float] = []
    staleness: list[int] = []

    def note(event: object) -> None:
        if isinstance(event, PhaseEnded):
            ended.append(event)
            if event.phase == "train" and party._heterofed.run is not None:
                staleness.append(party._heterofed.run.state.kept.staleness or 0)
        elif isinstance(event, RoundEnded) and "accuracy" in event.metrics:
            accuracy.append(event.metrics["accuracy"])

    parent: Any = MnistHost if role == "host" else MnistCollaborator

    class Party(parent):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            # As the example does, with images that are there already.
            super(parent, self).__init__(f"demo_{role}", **settings)
            self.half = half

        def load_local_ids(self) -> list[str]:
            return NAMES

        def split_dataset(self, _names: set[str]) -> tuple[set[str], set[str]]:
            train, test = ids_of(half)
            return set(train), set(test)

    settings = {
        "results_dir": results,
        "seed": order.get("seed", 1),
        "callbacks": [note],
        "join_timeout": 60,
    }
    if role == "host":
        settings |= {"psi_protocol": "ecdh", "batch_size": 128, "early_gradients": "once"}
        settings |= order["settings"]
    party = Party(**settings)
    party.launch_task(order["task"])
    training = [each for each in ended if each.phase == "train"]
    return {
        "seconds": [each.seconds for each in training],
        "test_seconds": [each.seconds for each in ended if each.phase == "test"],
        "compute_s": [each.compute for each in training],
        "encode_s": [each.encode for each in training],
        "wait_s": [sum(each.waits.values()) for each in training],
        "bytes_sent": [each.bytes_sent for each in training],
        "bytes_received": [each.bytes_received for each in training],
        "staleness": staleness,  # with which each round ended
        "accuracy": accuracy,
    }


def serve(role: str, data: Path, limit: tuple[int, int] | None) -> None:
    """A party's process: does what the lines on stdin say, one answer each on stdout."""
    from examples.mnist_split.data import load_halves

    role = "collaborator" if role == "away" else role
    logging.getLogger("heterofed").setLevel(logging.ERROR)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    sides = {"host": ["left"], "collaborator": ["right"], "joined": ["left", "right"]}[role]
    halves = {
        side: load_halves(data, side, labels=side == "left", limit=limit)  # type: ignore[arg-type]
        for side in sides
    }
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            order = json.loads(line)
            if role == "joined":
                answer = train_jointly(halves, **order)
            else:
                answer = train_split(role, halves[sides[0]], order, Path(folder))
            print(json.dumps(answer), file=answers, flush=True)


class Parties:
    """The processes of a benchmark.

    Args:
        roles: of `host`, `collaborator`, `joined` (the joined model) and `away` (a Collaborator
            that meets the Host only through a relay), those that are needed.
        options: further arguments of each process.
    """

    def __init__(
        self,
        module: str,
        data: Path,
        limit: tuple[int, int] | None,
        roles: Sequence[str],
        options: Sequence[str] = (),
    ) -> None:
        self.homes = {role: Path(tempfile.mkdtemp(prefix="hfb")) for role in ("host", "away")}
        self._children: dict[str, subprocess.Popen[str]] = {}
        for role in roles:
            home = self.homes["away" if role == "away" else "host"]
            command = [sys.executable, "-m", module, "--serve", role, "--data", str(data)]
            if limit:
                command += ["--limit", *map(str, limit)]
            command += options
            self._children[role] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "HETEROFED_HOME": str(home)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def joined(self, *, rounds: int, threads: int = 0) -> dict[str, Any]:
        """Seconds per round of the joined model, and its accuracy; 0 threads: all."""
        self._tell("joined", {"rounds": rounds, "threads": threads, "batch": 128})
        return self._hear("joined")

    def split(
        self, settings: dict[str, Any], *, relay: Any = None, seed: int = 1
    ) -> dict[str, dict[str, Any]]:
        """One split run; gives what each party measured.

        Args:
            settings: of the Host's scheduler.
            relay: makes a relay from (target, listen) addresses, to go through; None: directly.
            seed: of both parties.
        """
        from heterofed.rendezvous.local import local_address

        task = f"bench-{secrets.token_hex(4)}"
        other = "collaborator" if relay is None else "away"
        order = {"task": task, "settings": settings, "seed": seed}
        with contextlib.ExitStack() as stack:
            if relay is not None:
                here = local_address(task, self.homes["host"]).address
                there = local_address(task, self.homes["away"]).address
                stack.enter_context(relay(here, there))
            self._tell("host", order)
            self._tell(other, order)
            return {"host": self._hear("host"), "collaborator": self._hear(other)}

    def _tell(self, role: str, order: dict[str, Any]) -> None:
        pipe = self._children[role].stdin
        if pipe is not None:
            print(json.dumps(order), file=pipe, flush=True)

    def _hear(self, role: str) -> dict[str, Any]:
        pipe = self._children[role].stdout
        line = pipe.readline() if pipe is not None else ""
        if not line:
            raise RuntimeError(f"the benchmark's {role} has ended; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the processes."""
        for child in self._children.values():
            child.kill()
            child.wait()
        for home in self.homes.values():
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def parties(
    module: str,
    data: Path,
    limit: tuple[int, int] | None,
    roles: Sequence[str],
    options: Sequence[str] = (),
) -> Iterator[Parties]:
    """The processes, until the end of the block."""
    started = Parties(module, data, limit, roles, options)
    try:
        yield started
    finally:
        started.close()


def add_options(parser: Any) -> None:
    """The options that the benchmarks of the halves share."""
    import argparse

    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where MNIST lies")
    parser.add_argument("--limit", type=int, nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
