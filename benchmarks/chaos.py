"""Kill parties and cut their network, and see that nothing but time was lost.

    python -m benchmarks.chaos --kills 20 --cuts 200 --collaborators 3 --seed 1 --json
    python -m benchmarks.chaos --kills 20 --cuts 200 --collaborators 3 --kind hybrid

A small real MNIST task runs between processes over TCP with CURVE, first undisturbed, then again
and again through a relay (`benchmarks.relay`) until so many parties were killed (`kill -9`, at
random moments: half of them before the first round, from the first line of the program on, the
others between then and the end; sometimes several at once, sometimes the same one again
while it starts) and so many connections cut (at random moments, half of them in the middle of a
message). Whoever was killed is started again with the same command. Every run has to complete by
itself, with the weights of the undisturbed one bit for bit and with the same rows in its CSVs (of
`leakage.csv`, which is measured where there is time: each row once). A party that ends in any other
way than well or killed is a failure, and its log is shown.

With `--kind hybrid` all Collaborators but the first are sites of one role, each with its own
people. With `--kind horizontal` all have the same columns of different people, and the Host adds up
masked weights.

Gives `kills`, `killed_in` (how many of them in which phase; `start` is before a party has a plan),
`cuts`, `resumes` (times that the Host went on from a checkpoint), `lost_s` (seconds that the
disturbed runs took longer), `identical`, and how it was run. Exit code 1 where not all is
identical.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.killing import Killer, Pace, Party
from benchmarks.relay import Relay

HOST = "bank"
BATCH = 64
SEED = 7
PAUSE_SECONDS = 0.02  # for each batch: else most of a run would be its start
WAIT_SECONDS = 600  # for a party that was killed, on a machine with other work, too
RUN_SECONDS = 1800.0  # a run that takes longer hangs
KILLS_PER_RUN = 4
CUT_SECONDS = 0.25  # between two cuts, on average
COSTS = ("comm", "outbound")  # CSVs of times and bytes, which a rollback changes
KINDS = ("vertical", "hybrid", "horizontal")
ROLE = "branch"  # of the sites of a hybrid task
SAMPLED = "leakage"  # measured where there is time, so that not even two undisturbed runs agree


def collaborators(count: int, kind: str = "vertical") -> list[str]:
    """Their feature keys."""
    if kind == "hybrid":
        return ["shop-1", *(f"{ROLE}.{site}" for site in sites(count))]
    return [f"shop-{number}" for number in range(1, count + 1)]


def sites(count: int) -> list[str]:
    """The sites of a hybrid task with so many Collaborators."""
    return [f"site-{number}" for number in range(1, count)]


# -- a party, as a process of its own ----------------------------------------------------------


def run_party(args: argparse.Namespace) -> None:
    """One party: the Host with left halves, each Collaborator with a stripe of right ones."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - everybody calls it F
    from torch import Tensor, nn, optim

    from examples.mnist_split.data import load_halves, split_ids
    from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler, register_metrics

    torch.set_num_threads(1)
    if args.kind == "horizontal":
        run_horizontal(args)
        return
    is_host = args.party == HOST
    limit = (args.images, args.images // 4)
    half = load_halves(args.data, "left" if is_host else "right", labels=is_host, limit=limit)
    hybrid = args.kind == "hybrid"
    keys = ["shop-1", ROLE] if hybrid else collaborators(args.collaborators)
    role, _, site = args.party.partition(".")
    height = 28 // len(keys)
    first = 0 if is_host else keys.index(role) * height
    rows = slice(0, 28) if is_host else slice(first, first + height)
    own = half.ids
    if site:  # every so many people are its own
        own = half.ids[sites(args.collaborators).index(site) :: args.collaborators - 1]

    class Common:
        """What all parties do alike."""

        def load_local_ids(self) -> list[str]:
            return own

        def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
            return split_ids(id_intersection)

        def make_feature_model(self) -> nn.Module:
            width = (rows.stop - rows.start) * 14
            return nn.Sequential(
                nn.Flatten(), nn.Linear(width, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
            )

        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            return optim.Adam(feature_model.parameters(), lr=0.003)

        def features(self, feature_model: nn.Module, ids: list[str]) -> Iterator[Any]:
            for some in self.batches(ids):  # type: ignore[attr-defined]
                images, labels = half.rows(some)
                made = feature_model(images[:, :, rows])
                time.sleep(PAUSE_SECONDS)
                yield made if labels is None else (made, labels)

    class Bank(Common, HeteroNNHostScheduler):
        def iterate_train_feature(self, feature_model: nn.Module, train_ids: list[str]) -> Any:
            return self.features(feature_model, train_ids)

        def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Any:
            return self.features(feature_model, test_ids)

        def make_infer_model(self) -> nn.Module:
            return nn.Linear(10 * (len(keys) + 1), 10)

        def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
            return optim.SGD(infer_model.parameters(), lr=0.05, momentum=0.5)

        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
            self.optimizer.zero_grad()
            output = self.infer_model(torch.cat(list(feature_projection.values()), dim=1))
            loss = F.cross_entropy(output, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            return loss

        @register_metrics(name="test", keys=["accuracy"])
        def test(
            self,
            batched_feature_projections: list[dict[str, Tensor]],
            batched_labels: list[Tensor],
        ) -> None:
            right = count = 0
            for projection, labels in zip(batched_feature_projections, batched_labels, strict=True):
                output = self.infer_model(torch.cat(list(projection.values()), dim=1))
                right += int((output.argmax(1) == labels).sum())
                count += len(labels)
            self.get_metrics("test").append_metrics_item({"accuracy": right / count})

    class Shop(Common, HeteroNNCollaboratorScheduler):
        def iterate_train_feature(self, feature_model: nn.Module, train_ids: list[str]) -> Any:
            return self.features(feature_model, train_ids)

        def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Any:
            return self.features(feature_model, test_ids)

    settings: dict[str, Any] = {"results_dir": args.results, "join_timeout": 600, "seed": SEED}
    if is_host:
        settings |= {"max_rounds": args.rounds, "log_rounds": 1, "wait_for_peers": WAIT_SECONDS}
        # Not shuffled: with a seed the order hangs on the task id, and each run is another task.
        settings |= {"collaborators": keys, "psi_protocol": "ecdh", "batch_size": BATCH}
        settings |= {"sites": {ROLE: sites(args.collaborators)}} if hybrid else {}
        Bank(args.party, **settings).launch_task(args.task)
    else:
        Shop(role, **settings, **({"site": site} if site else {})).launch_task(args.task)


def run_horizontal(args: argparse.Namespace) -> None:
    """One party of a horizontal task: each Collaborator has every so many images."""
    import torch.nn.functional as F  # noqa: N812 - everybody calls it F
    from torch import nn, optim

    from examples.mnist_split.data import load_halves
    from heterofed.homo_nn import HomoNNCollaboratorScheduler, HomoNNHostScheduler

    keys = collaborators(args.collaborators)
    settings: dict[str, Any] = {"results_dir": args.results, "join_timeout": 600, "seed": SEED}
    if args.party == HOST:
        settings |= {"max_rounds": args.rounds, "wait_for_peers": WAIT_SECONDS}
        settings |= {"collaborators": keys, "secure_aggregation": len(keys) > 1}
        HomoNNHostScheduler(HOST, **settings).launch_task(args.task)
        return
    limit = (args.images, args.images // 4)
    half = load_halves(args.data, "left", labels=True, limit=limit)
    own = half.ids[keys.index(args.party) :: len(keys)]

    class Clinic(HomoNNCollaboratorScheduler):
        """A party with images and labels of its own."""

        def make_model(self) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(28 * 14, 32), nn.ReLU(), nn.Linear(32, 10))

        def make_optimizer(self, model: nn.Module) -> optim.Optimizer:
            return optim.Adam(model.parameters(), lr=0.003)

        def train_a_round(self, model: nn.Module) -> dict[str, float]:
            loss = 0.0
            for start in range(0, len(own), BATCH):
                images, labels = half.rows(own[start : start + BATCH])
                self.optimizer.zero_grad()
                assert labels is not None
                found = F.cross_entropy(model(images), labels)
                found.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                loss = float(found.detach())
                time.sleep(PAUSE_SECONDS)
            return {"rows": len(own), "loss": loss}

        def test(self, model: nn.Module) -> dict[str, float]:
            images, labels = half.rows(own)
            right = (model(images).argmax(1) == labels).float().mean()
            return {"rows": len(own), "accuracy": float(right)}

    Clinic(args.party, **settings).launch_task(args.task)


# -- all of them -------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was done, and what came of it."""

    kills: int = 0
    killed_in: dict[str, int] = field(default_factory=dict)
    cuts: int = 0
    resumes: int = 0
    runs: int = 0
    lost_s: float = 0.0
    calm_s: float = 0.0
    identical: bool = True
    failures: list[str] = field(default_factory=list)


class Chaos:
    """Runs of one task, in a folder with a HETEROFED_HOME of its own."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args, self._folder = args, folder
        self._random = random.Random(args.seed)
        self._names = [HOST, *collaborators(args.collaborators, args.kind)]
        self.tally = Tally()
        self._pace = Pace()

    def go(self) -> Tally:
        """All of it."""
        args, tally = self._args, self.tally
        begun = time.monotonic()
        self._run("calm", kills=0, cuts=0)
        tally.calm_s = time.monotonic() - begun
        if not tally.failures:
            expected = self._outcome("calm")
        while not tally.failures and (tally.kills < args.kills or tally.cuts < args.cuts):
            task = f"chaos-{tally.runs}"
            runs_left = max(1, -(-(args.kills - tally.kills) // KILLS_PER_RUN))
            kills = min(KILLS_PER_RUN, args.kills - tally.kills)
            left = max(0, args.cuts - tally.cuts)
            cuts = min(left, 2 + left * 5 // (4 * runs_left))  # some to spare: a run may be short
            began, before = time.monotonic(), (tally.kills, tally.cuts)
            self._run(task, kills=max(0, kills), cuts=cuts)
            tally.lost_s += time.monotonic() - began - tally.calm_s
            tally.runs += 1
            if not tally.failures and self._outcome(task) != expected:
                tally.failures.append(f"{task}: other weights or rows than the undisturbed run")
            self._say(task, tally.kills - before[0], tally.cuts - before[1])
            if not tally.failures:
                shutil.rmtree(self._folder / "results" / task)
        tally.identical = not tally.failures
        return tally

    def _say(self, task: str, kills: int, cuts: int) -> None:
        tally = self.tally
        print(
            f"{task}: {kills} kills, {cuts} cuts; so far {tally.kills} and {tally.cuts},"
            f" {tally.resumes} resumes, {tally.lost_s:.0f} s lost",
            file=sys.stderr,
        )

    def _run(self, task: str, *, kills: int, cuts: int) -> None:
        """One run of the task to its end, disturbed so often."""
        with ExitStack() as stack:
            relay = stack.enter_context(self._open_task(task))
            parties = [self._party(name, task) for name in self._names]
            for party in parties:
                stack.callback(party.kill)
                party.start()
            killer = Killer(self._random, parties, self._moments(kills), self._pace)
            self._disturb(parties, killer, relay, cuts)
            if not kills:
                self._pace = killer.pace()
            self.tally.killed_in = dict(Counter(self.tally.killed_in) + killer.killed_in)
            self.tally.kills += killer.killed_in.total()
            self.tally.cuts += relay.cuts
        log = (self._folder / "logs" / f"{task}-{HOST}.log").read_text(errors="replace")
        self.tally.resumes += log.count("going on from")

    def _disturb(self, parties: list[Party], killer: Killer, relay: Relay, cuts: int) -> None:
        rng, began = self._random, time.monotonic()
        next_cut = began + rng.expovariate(1 / CUT_SECONDS)
        while any(party.code() is None for party in parties) or killer.due:
            now = time.monotonic()
            for party in parties:
                if party.code() not in (None, 0) and not killer.starts(party):
                    self._fail(party, f"ended with exit code {party.code()}")
                    return
            if now - began > RUN_SECONDS:
                for party in parties:
                    if party.code() is None:
                        self._fail(party, f"still runs after {RUN_SECONDS:.0f} s")
                return
            if relay.cuts < cuts and now >= next_cut:
                relay.cut(mid_message=rng.random() < 0.5)
                next_cut = now + rng.expovariate(1 / CUT_SECONDS)
            killer.step(now)
            time.sleep(0.01)

    def _moments(self, kills: int) -> list[float]:
        """When to kill: below 1 before the first round, and then by rounds."""
        rng, rounds = self._random, self._args.rounds
        early = [rng.random() < 0.5 for _ in range(kills)]
        return sorted(rng.uniform(0, 1) if each else rng.uniform(1, 2 + rounds) for each in early)

    def _fail(self, party: Party, why: str) -> None:
        tail = party.log.read_text(errors="replace")[-3000:]
        self.tally.failures.append(f"{party.log.stem} {why}:\n{tail}")

    def _open_task(self, task: str) -> Relay:
        """A task file that leads through a relay, keys, and everybody's consent."""
        from heterofed.cli.task import accept_task, new_task
        from heterofed.files import heterofed_home
        from heterofed.identity.keys import key_path, load_key, new_key

        home = heterofed_home()
        for name in self._names:
            if not key_path(name, home).exists():
                new_key(name, home)
        with socket.create_server(("127.0.0.1", 0)) as free:
            bind = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        relay = Relay(bind, seed=self._random.randrange(2**32))
        new_task(
            task,
            host=HOST,
            address=relay.address,
            bind=bind,
            collaborators=[f"{each}={load_key(each, home).public}" for each in self._names[1:]],
            plan=self._terms(),
        )
        for name in self._names[1:]:
            accept_task(task, name, lambda _terms, _party: True)
        return relay

    def _terms(self) -> list[str]:
        """The terms of the task file."""
        args = self._args
        terms = [f"max_rounds={args.rounds}"]
        if args.kind == "horizontal":
            fusion = "masked_sum" if args.collaborators > 1 else "separate"
            most = f"max_batch_bytes={1 << 30}"  # the default of the Host's max_model_bytes
            return [*terms, f"fusion={fusion}", "averaging={}", most]
        terms += ["psi_protocol=ecdh", f"batch_size={BATCH}"]
        if args.kind == "hybrid":
            named = [f"{ROLE}.{each}" for each in sites(args.collaborators)]
            roles = json.dumps([{"role": ROLE, "parties": named}])
            terms += ["announced_split=true", f"sites={roles}"]
        return terms

    def _party(self, name: str, task: str) -> Party:
        args = self._args
        command = [sys.executable, "-m", "benchmarks.chaos", "--party", name, "--task", task]
        command += ["--results", str(self._folder / "results"), "--data", str(args.data)]
        command += ["--collaborators", str(args.collaborators)]
        command += ["--rounds", str(args.rounds), "--images", str(args.images)]
        command += ["--kind", args.kind]
        log = self._folder / "logs" / f"{task}-{name}.log"
        log.parent.mkdir(exist_ok=True)
        return Party(name, command, self._folder / "results" / task / name, log)

    def _outcome(self, task: str) -> dict[str, Any]:
        """Every weight bit for bit, and every row of every CSV but those of costs and samples."""
        import torch

        found: dict[str, Any] = {}
        folder = self._folder / "results" / task
        for path in sorted(folder.rglob("*.pt")):
            found |= flat(str(path.relative_to(folder)), torch.load(path, weights_only=True))
        for path in sorted(folder.rglob("*.csv")):
            if path.stem in COSTS:
                continue
            with path.open(newline="") as file:
                rows = list(csv.reader(file))
            if path.stem == SAMPLED:  # its rows are other ones, and still each is there once
                keys = Counter(tuple(row[:4]) for row in rows)
                rows = [list(key) for key, times in keys.items() if times > 1]
            found[str(path.relative_to(folder))] = rows
        return found


def flat(name: str, value: Any) -> dict[str, Any]:
    """Every tensor of a saved file, by name and bit for bit; plain values as they are."""
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in flat(f"{name}/{key}", each).items()}
    return {name: value.numpy().tobytes() if hasattr(value, "numpy") else value}


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=10, help="parties to kill, over all runs")
    parser.add_argument("--cuts", type=int, default=100, help="connections to cut, over all runs")
    parser.add_argument("--collaborators", type=int, default=1, choices=range(1, 8))
    parser.add_argument("--kind", choices=KINDS, default="vertical", help="how the data are cut")
    parser.add_argument("--seed", type=int, default=0, help="for the moments, victims and cuts")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--images", type=int, default=1000, help="images to train on")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies or goes")
    parser.add_argument("--keep", type=Path, help="keep logs and results in this folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in ("--party", "--task", "--results"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """The bench, or one of its parties."""
    args = arguments().parse_args()
    if args.party:
        run_party(args)
        return
    from examples.mnist_split.data import ensure_mnist

    if args.kind == "hybrid" and args.collaborators < 3:
        raise SystemExit("--kind hybrid: give --collaborators 3 or more, for a role and two sites")
    args.data = args.data.absolute()
    ensure_mnist(args.data)
    # Short: a Unix socket's path may not be long.
    folder = args.keep or Path(tempfile.mkdtemp(prefix="chaos"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HETEROFED_HOME"] = str(folder.absolute() / "home")
    tally = Chaos(args, folder.absolute()).go()
    shown = {
        **asdict(tally),
        "failures": len(tally.failures),
        "kind": args.kind,
        "collaborators": args.collaborators,
        "seed": args.seed,
    }
    shown |= {"lost_s": round(tally.lost_s, 1), "calm_s": round(tally.calm_s, 1)}
    if args.json:
        print(json.dumps(shown))
    else:
        print("\n".join(f"{name}: {value}" for name, value in shown.items()))
    if args.keep is None and tally.identical:
        shutil.rmtree(folder)
    if tally.failures:
        print("\n\n".join([*tally.failures, f"everything is in {folder}"]), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
