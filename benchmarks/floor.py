"""What a batch costs without heterofed: the least that `benchmarks.step` can come to.

    python -m benchmarks.floor --json

A Host and its Collaborators exchange as many bytes per batch as in `benchmarks.step`, over plain
pyzmq with CURVE, and do nothing else than what split training by torch needs. There is no link that
survives a cut, no check of what came, no random stream and no account of what was sent. The time is
measured as in `benchmarks.step`: CPU time of the whole process per batch, less that of the models.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.step import INPUTS, MODEL, ROWS, WIDTH, Clocks, differences, figures_of, show

ROOT = Path(__file__).resolve().parents[1]
HEADER = bytes(64)
"""About as many bytes as the header of a message."""


def now(clocks: Clocks) -> list[float]:
    model = clocks.seconds[MODEL]
    return [time.process_time(), time.thread_time(), model, time.perf_counter()]


def read(of: Any, poller: Any) -> list[bytes]:
    """The next message, waited for as an event loop does."""
    import zmq

    while not of.getsockopt(zmq.EVENTS) & zmq.POLLIN:
        poller.poll(500)
    parts: list[bytes] = of.recv_multipart(zmq.DONTWAIT)
    return parts


def tensor_of(frame: bytes) -> Any:
    import torch

    numbers = torch.frombuffer(bytearray(frame), dtype=torch.float32, offset=len(HEADER))
    return numbers.reshape(ROWS, WIDTH)


def serve(args: argparse.Namespace) -> None:
    """A party's process: what its batches have taken goes to `--out`."""
    import torch
    import zmq

    torch.set_num_threads(1)
    is_host = args.serve == "host"
    own = zmq.Context().socket(zmq.ROUTER if is_host else zmq.DEALER)
    own.setsockopt(zmq.LINGER, 5000)
    public, secret = zmq.curve_keypair()
    own.curve_secretkey = args.secret.encode() if is_host else secret
    own.curve_publickey = args.public.encode() if is_host else public
    if is_host:
        own.curve_server = True
        own.bind(args.address)
    else:
        own.curve_serverkey = args.public.encode()
        own.connect(args.address)
    poller, clocks = zmq.Poller(), Clocks()
    poller.register(own, zmq.POLLIN)
    times = (host if is_host else collaborator)(own, poller, clocks, args)
    args.out.write_text(json.dumps(times))
    own.close()


def host(own: Any, poller: Any, clocks: Clocks, args: argparse.Namespace) -> list[list[float]]:
    import torch
    import torch.nn.functional as F  # noqa: N812

    model = torch.nn.Linear(WIDTH * args.count, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    labels, times = torch.rand(ROWS).round(), []
    for _ in range(args.batches):
        came = dict(read(own, poller) for _ in range(args.count))
        features = [tensor_of(each).requires_grad_() for each in came.values()]
        with clocks.counting(MODEL):
            scores = model(torch.cat(features, dim=1)).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(scores, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for route, each in zip(came, features, strict=True):
            own.send_multipart([route, HEADER + each.grad.numpy().tobytes()])
        times.append(now(clocks))
    return times


def collaborator(
    own: Any, poller: Any, clocks: Clocks, args: argparse.Namespace
) -> list[list[float]]:
    import torch

    model = torch.nn.Linear(INPUTS, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows, times = torch.randn(ROWS, INPUTS), []
    for _ in range(args.batches):
        with clocks.counting(MODEL):
            features = model(rows)
        own.send(HEADER + features.detach().numpy().tobytes())
        (came,) = read(own, poller)
        gradient = tensor_of(came)
        with clocks.counting(MODEL):
            optimizer.zero_grad()
            features.backward(gradient)
            optimizer.step()
        times.append(now(clocks))
    return times


def run_parties(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """The figures of the Host and of one of so many Collaborators."""
    import zmq

    public, secret = (each.decode() for each in zmq.curve_keypair())
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{number}.json" for number in range(1 + count)]
        command = [sys.executable, "-m", "benchmarks.floor", "--address", address]
        command += [f"--public={public}", f"--secret={secret}"]
        command += ["--count", str(count), "--batches", str(args.batches)]
        children = [
            subprocess.Popen(
                [*command, "--serve", "collaborator" if at else "host", "--out", str(out)],
                cwd=ROOT,
            )
            for at, out in enumerate(outs)
        ]
        try:
            codes = [child.wait(args.timeout) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
        if any(codes):
            raise SystemExit(f"a party has failed: exit codes {codes}; see above")
        times = [json.loads(out.read_text()) for out in outs[:2]]
    batches = [differences(each[args.batches // 5 :]) for each in times]  # the others warm up
    sides = zip(("host", "collaborator"), batches, strict=True)
    return {side: figures_of([{"batches": each}]) for side, each in sides}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--parties", type=int, nargs="+", default=[1, 2], help="Collaborators")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run")
    for name in ("serve", "public", "secret", "address"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    load = os.getloadavg()[0]
    result: dict[str, Any] = {str(count): run_parties(args, count) for count in args.parties}
    result |= {"load_before": load, "load_after": os.getloadavg()[0]}
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
