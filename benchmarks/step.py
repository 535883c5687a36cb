"""What the protocol costs per batch: microseconds at each side, and what they are spent on.

    python -m benchmarks.step --json
    python -m benchmarks.step --parties 1 --causes

Exact split training of tiny linear halves (256 rows, 16 features), each party a process of its own,
over TCP with CURVE. Figures are CPU time of the whole process, threads of ZeroMQ included, from
one batch of the phase `train` to the next (medians over all rounds but the first of all repeats),
less the time within the models (forward, loss, backward, step): what is left is heterofed. CPU
time, too, hangs on what else the machine does: `quiet_us` is that of the quickest tenth of batches.
Time on the clock, which is what a user waits for, is in `wall_us`.

`--causes` runs once more with clocks around functions: what they took on the thread that trains,
each without what is counted within it. Clocks cost time themselves, so these sums are larger.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOST = "bank"
ROWS, INPUTS, WIDTH = 256, 8, 16
MODEL = "the models"
THREAD = "the thread that trains"

CAUSES = {
    "heterofed.compute.streams:random_stream": "random streams",
    "heterofed.compute.streams:start_generators": "random streams",
    "heterofed.hetero_nn.train.row_order:keyed_digest": "digests of ids",
    "heterofed.hetero_nn.train.releases:Releases.leaves": "the ledger of releases",
    "heterofed.hetero_nn.train.own_batches:as_batch": "forms of batches",
    "heterofed.hetero_nn.train.own_batches:OwnBatches._check": "forms of batches",
    "heterofed.compute.freshness:Freshness.check": "graphs of features",
    "heterofed.compute.freshness:Freshness.making": "graphs of features",
    "heterofed.compute.tensors:is_finite": "finite numbers",
    "heterofed.compute.features:named": "forms of batches",
    "heterofed.hetero_nn.train.host_guard:HostGuard.note": "the leak report",
    "heterofed.hetero_nn.train.host_guard:HostGuard.measured_part": "the leak report",
    "heterofed.hetero_nn.train.collaborator_guard:CollaboratorGuard.note": "the leak report",
    "heterofed.hetero_nn.train.host_loop:leaves_of": "leaves of the graph",
    "heterofed.compute.leaves:Leaves.gradients": "leaves of the graph",
    "heterofed.hetero_nn.feature_means:FeatureMeans.add": "means of features",
    "heterofed.hetero_nn.train.host_loop:pack": "tensors to bytes",
    "heterofed.hetero_nn.train.feature_sender:pack": "tensors to bytes",
    "heterofed.hetero_nn.train.feature_sender:unpack": "bytes to tensors",
    "heterofed.hetero_nn.train.joint_batch:unpack": "bytes to tensors",
    "heterofed.messaging.party:encode": "messages to frames",
    "heterofed.protocol.codec:Decoder.feed": "frames to messages",
    "heterofed.protocol.session:Session._check": "rules of the session",
    "heterofed.protocol.session:Session._advance": "rules of the session",
    "heterofed.messaging.party:Party.emit": "events",
    "heterofed.messaging.party:Party._put": "sending and receiving",
    "heterofed.messaging.party:Party._receive": "sending and receiving",
    "heterofed.messaging.party:Party._await": "sending and receiving",
    "heterofed.transport.reliable.endpoint:LinkChannel.send": "the reliable link",
    "heterofed.transport.reliable.endpoint:LinkEndpoint.poll": "the reliable link",
    "heterofed.transport.zeromq.endpoint:ZmqEndpoint.poll": "ZeroMQ",
    "heterofed.transport.zeromq.endpoint:ZmqEndpoint._post": "ZeroMQ",
    "heterofed.transport.zeromq.endpoint:ZmqEndpoint._wait": "waiting in ZeroMQ",
}
"""Functions, and what their time counts as."""


class Clocks:
    """CPU time of this thread by cause, each without what is counted within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = [0.0]

    @contextlib.contextmanager
    def counting(self, cause: str) -> Iterator[None]:
        began = time.thread_time()
        self._within.append(0.0)
        try:
            yield
        finally:
            spent = time.thread_time() - began
            self.seconds[cause] += spent - self._within.pop()
            self._within[-1] += spent

    def around(self, call: Callable[..., Any], cause: str) -> Callable[..., Any]:
        """The same function, counted; a block of a `with` statement is not."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.counting(cause):
                made = call(*args, **kwargs)
            return _Block(made, self, cause) if hasattr(made, "__exit__") else made

        return counted

    def put_around(self, path: str, cause: str) -> None:
        """Replace a function, such as `package.module:Class.method`."""
        module, _, name = path.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, last = name.split(".")
        for each in outer:
            owner = getattr(owner, each)
        setattr(owner, last, self.around(getattr(owner, last), cause))


class _Block:
    """A context manager whose beginning and end are counted."""

    def __init__(self, block: Any, clocks: Clocks, cause: str) -> None:
        self._block, self._clocks, self._cause = block, clocks, cause

    def __enter__(self) -> Any:
        with self._clocks.counting(self._cause):
            return self._block.__enter__()

    def __exit__(self, *error: Any) -> Any:
        with self._clocks.counting(self._cause):
            return self._block.__exit__(*error)


def make_party(name: str, batches: int, clocks: Clocks, **settings: Any) -> Any:
    """A scheduler whose hooks do next to nothing beside their models."""
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import nn

    from heterofed import Batch, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler

    is_host = name == HOST
    parent: Any = HeteroNNHostScheduler if is_host else HeteroNNCollaboratorScheduler
    names = [f"{number:08d}" for number in range(batches * ROWS)]
    generator = torch.Generator().manual_seed(len(name))
    values = torch.randn(len(names), INPUTS, generator=generator)
    targets = (values.sum(dim=1) > 0).float()

    class Model(nn.Linear):
        def forward(self, rows: Any) -> Any:
            with clocks.counting(MODEL):
                return super().forward(rows)

    class Step(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            with clocks.counting(MODEL):
                super().zero_grad(set_to_none)

        def step(self, closure: Any = None) -> Any:
            with clocks.counting(MODEL):
                return super().step(closure)

    class Tiny(parent):  # type: ignore[misc]
        def load_local_ids(self) -> list[str]:
            return names[:8]

        def split_dataset(self, _names: set[str]) -> tuple[set[str], set[str]]:
            return set(names), set(names[:ROWS])

        def make_feature_model(self) -> nn.Module | None:
            return None if is_host else Model(INPUTS, WIDTH)

        def make_feature_optimizer(self, feature_model: nn.Module) -> Any:
            return Step(feature_model.parameters(), lr=0.01)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for at in range(0, len(train_ids), ROWS):
                ids, rows = train_ids[at : at + ROWS], slice(at, at + ROWS)
                if is_host:
                    yield Batch(None, targets[rows], ids)
                else:
                    yield Batch(feature_model(values[rows]), ids=ids)

        iterate_test_feature = iterate_train_feature

        def make_infer_model(self) -> nn.Module:
            return nn.Linear(WIDTH * (len(self.parties) - 1), 1)

        def make_infer_optimizer(self, infer_model: nn.Module) -> Any:
            return torch.optim.SGD(infer_model.parameters(), lr=0.01)

        def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
            with clocks.counting(MODEL):
                rows = torch.cat(list(feature_projection.values()), dim=1)
                scores = self.infer_model(rows).squeeze(1)
                loss = F.binary_cross_entropy_with_logits(scores, labels)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
            return loss

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            pass

    if is_host:
        settings |= {"is_feature_trainable": False}
    return Tiny(feature_key=name, join_timeout=120, **settings)


def serve(args: argparse.Namespace) -> None:
    """A party's process: what each round has taken goes to `--out`."""
    import logging

    import torch

    from heterofed.events import PhaseBegan, PhaseEnded, Progressed

    logging.getLogger("heterofed").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    clocks, rounds = Clocks(), []
    clocks.put_around("heterofed.hetero_nn.train.collaborator_loop:backward", MODEL)
    for path, cause in CAUSES.items() if args.causes else ():
        clocks.put_around(path, cause)
    training: list[list[float]] = []

    def note(event: object) -> None:
        if getattr(event, "phase", "") == "train":
            if isinstance(event, PhaseBegan):
                clocks.seconds.clear()
                training[:] = [now()]
            elif isinstance(event, PhaseEnded):
                causes = {**clocks.seconds, THREAD: now()[1] - training[0][1]}
                rounds.append({"causes": causes, "batches": differences(training)})
                training.clear()
        elif isinstance(event, Progressed) and training:
            training.append(now())

    def now() -> list[float]:
        model = clocks.seconds[MODEL]
        return [time.process_time(), time.thread_time(), model, time.perf_counter()]

    shown: dict[str, Any] = {"callbacks": [note], "results_dir": args.out.parent / "results"}
    if args.serve == HOST:
        shown["max_rounds"] = args.rounds
    party = make_party(args.serve, args.batches, clocks, **shown)
    party.launch_task(args.task)
    args.out.write_text(json.dumps(rounds))


def open_task(task: str, collaborators: list[str], rounds: int) -> None:
    """Keys, a task file, and consent."""
    from heterofed.cli.task import accept_task, new_task
    from heterofed.files import heterofed_home
    from heterofed.identity.keys import key_path, load_key, new_key

    home = heterofed_home()
    for name in (HOST, *collaborators):
        if not key_path(name, home).exists():
            new_key(name, home)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    listed = [f"{name}={load_key(name, home).public}" for name in collaborators]
    plan = [f"max_rounds={rounds}", f"batch_size={ROWS}", "psi_protocol=ecdh"]
    new_task(task, host=HOST, address=address, collaborators=listed, plan=plan)
    for name in collaborators:
        accept_task(task, name, lambda _terms, _party: True)


def run_parties(args: argparse.Namespace, count: int, task: str, *, causes: bool) -> Any:
    """What the rounds of one run have taken at the Host and at its first Collaborator."""
    collaborators = [f"shop{number}" for number in range(count)]
    with contextlib.redirect_stdout(sys.stderr):
        open_task(task, collaborators, args.rounds)
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.step", "--task", task]
        command += ["--rounds", str(args.rounds), "--batches", str(args.batches)]
        command += ["--causes"] * causes
        children = [
            subprocess.Popen(
                [*command, "--serve", each, "--out", str(Path(name) / f"{each}.json")],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
            )
            for each in (HOST, *collaborators)
        ]
        try:
            deadline = time.monotonic() + args.timeout
            while None in (codes := [child.poll() for child in children]) and not any(codes):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{task} was not done after {args.timeout} s")
                time.sleep(0.05)
            if any(codes):
                raise SystemExit(f"a party has failed: exit codes {codes}; see above")
        finally:
            for child in children:
                child.kill()
                child.wait()
        found = [Path(name, f"{each}.json").read_text() for each in (HOST, collaborators[0])]
        return dict(zip(("host", "collaborator"), map(json.loads, found), strict=True))


def differences(times: list[list[float]]) -> list[list[float]]:
    """What each batch but the first has taken; the first one also has what a round begins with."""
    pairs = itertools.pairwise(times[1:])
    return [[b - a for a, b in zip(*pair, strict=True)] for pair in pairs]


def figures_of(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over batches, in microseconds; and the cost of the quietest tenth of batches."""
    batches = [each for some in rounds for each in some["batches"]]
    process, thread, model, wall = ([1e6 * each[at] for each in batches] for at in range(4))
    own = [all_threads - within for all_threads, within in zip(process, model, strict=True)]
    found = {
        "us": statistics.median(own),
        "quiet_us": statistics.quantiles(own, n=10)[0],
        "thread_us": statistics.median(
            one - within for one, within in zip(thread, model, strict=True)
        ),
        "model_us": statistics.median(model),
        "wall_us": statistics.median(wall),
    }
    return {name: round(each, 1) for name, each in found.items()}


def by_cause(rounds: list[dict[str, Any]], batches: int) -> dict[str, float]:
    """Least of all rounds by cause, in microseconds per batch, the largest first."""
    causes = {cause for each in rounds for cause in each["causes"]}
    found = {cause: min(each["causes"].get(cause, 0.0) for each in rounds) for cause in causes}
    thread = found.pop(THREAD)
    found["everything else"] = thread - sum(found.values())
    ordered = sorted(found.items(), key=lambda each: -each[1])
    return {cause: round(1e6 * seconds / batches, 1) for cause, seconds in ordered}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[int, dict[str, list[Any]]] = {
        count: {"host": [], "collaborator": []} for count in args.parties
    }
    load = os.getloadavg()[0]
    for repeat in range(args.repeats):
        for count, sides in rounds.items():
            found = run_parties(args, count, f"step-{count}-{repeat}", causes=False)
            for side, all_rounds in sides.items():
                all_rounds.extend(found[side][1:])
    figures = {
        count: {side: figures_of(each) for side, each in sides.items()}
        for count, sides in rounds.items()
    }
    fewest, most = min(args.parties), max(args.parties)
    result: dict[str, Any] = {
        "host_us": figures[fewest]["host"]["us"],
        "collaborator_us": figures[fewest]["collaborator"]["us"],
        "host_quiet_us": figures[fewest]["host"]["quiet_us"],
        "collaborator_quiet_us": figures[fewest]["collaborator"]["quiet_us"],
        "wall_us": figures[fewest]["host"]["wall_us"],
    }
    if most > fewest:
        for key in ("us", "quiet_us"):
            more = figures[most]["host"][key] - figures[fewest]["host"][key]
            result[f"per_extra_collaborator_{key}"] = round(more / (most - fewest), 1)
    result["by_parties"] = {str(count): each for count, each in figures.items()}
    if args.causes:
        found = run_parties(args, fewest, "step-causes", causes=True)
        result["by_cause"] = {
            side: by_cause(each[1:], args.batches) for side, each in found.items()
        }
    return result | {"load_before": load, "load_after": os.getloadavg()[0]}


def show(result: dict[str, Any], indent: str = "") -> None:
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            show(value, indent + "  ")
        else:
            print(f"{indent}{key:<34}{value:10,.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--parties", type=int, nargs="+", default=[1, 2, 8], help="Collaborators")
    parser.add_argument("--batches", type=int, default=200, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="of each run; the first warms up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--causes", action="store_true", help="measure by cause, too")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    with tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as home:
        os.environ["HETEROFED_HOME"] = home
        result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
