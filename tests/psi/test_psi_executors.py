"""Processes of this machine and clusters do the work, and what they do wrong is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

import psi
from psi.errors import ExecutorError, SignatureError, WorkerError
from psi.executors import check_address, may_leave, open_pool
from psi.executors.frames import pack, unpack
from psi.executors.pool import TRIES, call
from psi.executors.processes import Processes
from psi.hashing import prefixed
from tests.psi.helpers import RUN

IDS = [str(number) for number in range(300)]
Tamper = Callable[[str, Any], Any]


def whole_run(
    protocol: psi.Protocol,
    executor: Any,
    *,
    of: str = "both",
    between: Callable[[], object] = lambda: None,
    ids: int = 300,
) -> None:
    """Run both parties, of which one or both compute through the executor."""
    common: dict[str, Any] = {"domain": RUN, "workers": 2}
    remote = common | {"executor": executor}
    own = [str(number) for number in range(ids)]
    signs = remote | {"key_leaves": True} if of != "requester" else common
    asks = remote if of != "signer" else common
    with psi.signer(protocol, own[ids // 2 :], **signs) as signing:
        key = signing.public_key()
        with psi.requester(protocol, own, key, signing.count, **asks, chunk_ids=100) as asking:
            signing.begin(asking.count)
            for chunk in asking.blinded():
                between()
                asking.unblind(signing.sign(chunk))
            for chunk in signing.tags():
                asking.add_tags(chunk)
            assert asking.intersection() == own[ids // 2 :]


class Tampering(Executor):
    """Computes in threads, and changes what comes back of one function."""

    def __init__(self, tamper: Tamper) -> None:
        self._pool, self._tamper = ThreadPoolExecutor(4), tamper

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert all(isinstance(each, bytes) for each in args), "bytes go out"
        assert work.__module__.startswith("psi.")
        return self._pool.submit(lambda: self._tamper(work.__name__, work(*args, **kwargs)))


def of_one(name: str, change: Callable[[bytes], Any]) -> Tampering:
    return Tampering(lambda work, got: change(got) if work == name else got)


def test_frames() -> None:
    for parts in ([], [b""], [b"a", b"", b"bc" * 500]):
        assert unpack(pack(parts)) == parts
    for bad in (b"", b"\1", pack([b"ab"])[:-1], pack([b"ab"]) + b"x", b"\xff" * 8):
        with pytest.raises((ValueError, OverflowError)):
            unpack(bad)


@pytest.mark.parametrize(
    ("address", "leaves"),
    [
        ("processes:1", False),
        ("processes:256", False),
        ("dask://scheduler:8786", True),
        ("dask+tls://10.0.0.1:8786", True),
        ("dask://[::1]:8786", True),
        ("ray://head:10001", True),
        ("ray://auto", True),
    ],
)
def test_addresses(address: str, leaves: bool) -> None:
    check_address(address)
    assert may_leave(address) is leaves


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "processes",
        "processes:0",
        "processes:257",
        "processes:-1",
        "dask://",
        "dask://host",
        "dask://host:x",
        "dask://a b:1",
        "ray:head:1",
        "ssh://host:1",
        8,
        b"processes:2",
    ],
)
def test_what_is_no_executor_is_refused_with_what_is(bad: Any) -> None:
    with pytest.raises(ExecutorError, match='give "processes:8"'):
        check_address(bad)
    with pytest.raises(ExecutorError, match="is no executor"):
        psi.signer("ecdh", IDS, domain=RUN, executor=bad, key_leaves=True)


def test_the_key_stays_unless_it_may_leave() -> None:
    elsewhere = Tampering(lambda _, got: got)
    for executor, leaves in (
        ("dask://127.0.0.1:9", None),
        ("dask://127.0.0.1:9", False),
        ("ray://127.0.0.1:9", None),
        (elsewhere, False),
    ):
        with pytest.raises(ExecutorError, match="key_leaves=True"):
            psi.signer("rsa", IDS, domain=RUN, executor=executor, key_leaves=leaves)
    with ThreadPoolExecutor(1) as here:
        psi.signer("ecdh", IDS, domain=RUN, executor=here, key_leaves=False).close()


WRONG: dict[str, Callable[[bytes], Any]] = {
    "cut off": lambda got: got[:-1],
    "too long": lambda got: got + got[:1],
    "nothing": lambda _: b"",
    "all zero": lambda got: bytes(len(got)),
    "all ones": lambda got: b"\xff" * len(got),
    "turned": lambda got: got[::-1],
    "no bytes": list,
    "text": lambda got: got.hex(),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("protocol", "role", "name"),
    [
        ("ecdh", "requester", "blind"),
        ("ecdh", "requester", "finish"),
        ("ecdh", "signer", "evaluate"),
        ("ecdh", "signer", "own"),
        ("rsa", "requester", "blind"),
        ("rsa", "requester", "finish"),
        ("rsa", "signer", "power_d"),
    ],
)
def test_wrong_bytes_blame_the_worker(
    protocol: psi.Protocol, role: str, name: str, wrong: str
) -> None:
    with pytest.raises(WorkerError, match=r"worker of the executor .*returned wrong bytes"):
        whole_run(protocol, of_one(name, WRONG[wrong]), of=role, ids=40)


def test_a_worker_cannot_blame_the_peer() -> None:
    def lie(work: str, got: bytes) -> bytes:
        if work == "finish":
            raise SignatureError("a signed value does not verify")
        return got

    for protocol in ("ecdh", "rsa"):
        with pytest.raises(WorkerError, match="wrong bytes"):
            whole_run(protocol, Tampering(lie), of="requester", ids=40)


@pytest.mark.parametrize("protocol", ["ecdh", "rsa"])
def test_a_peer_is_still_blamed(protocol: psi.Protocol) -> None:
    with psi.signer(protocol, IDS[:20], domain=RUN) as signing:
        settings: dict[str, Any] = {"domain": RUN, "executor": Tampering(lambda _, got: got)}
        asking = psi.requester(protocol, IDS[:20], signing.public_key(), 20, **settings)
        signing.begin(20)
        (chunk,) = asking.blinded()
        signed = signing.sign(chunk)
        with pytest.raises((psi.SignatureError, psi.ValueRefusedError)):
            asking.unblind(b"\xff" * (len(signed) // 20) + signed[len(signed) // 20 :])


def test_an_error_of_a_worker_says_its_type_and_not_its_text() -> None:
    def fail(_: str, __: bytes) -> bytes:
        raise ModuleNotFoundError("no psi for ann")

    with pytest.raises(WorkerError, match="failed with ModuleNotFoundError") as caught:
        whole_run("ecdh", Tampering(fail), of="signer", ids=40)
    assert "ann" not in str(caught.value)
    assert caught.value.__cause__ is None


class Losing(Executor):
    """Loses the first workers."""

    def __init__(self, times: int) -> None:
        self.left, self.calls = times, 0

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls += 1
        if self.calls <= self.left:
            future.cancel()
        else:
            future.set_result(work(*args, **kwargs))
        return future


def test_lost_workers_are_replaced_a_bounded_number_of_times() -> None:
    for times in range(TRIES):
        pool = open_pool(Losing(times))
        assert pool is not None
        assert unpack(call(pool, pack_one, [b"x"])) == [b"x"]
    losing = Losing(1000)
    pool = open_pool(losing)
    assert pool is not None
    with pytest.raises(WorkerError, match=f"lost its worker {TRIES} times"):
        call(pool, pack_one, [b"x"])
    assert losing.calls == TRIES


def pack_one(part: bytes) -> bytes:
    return pack([part])


def test_an_executor_that_is_shut_down_is_named() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown(wait=False)
    with pytest.raises(ExecutorError, match=r"PoolExecutor\) takes no more work .*make a new"):
        whole_run("ecdh", pool, ids=40)


def test_nothing_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psi.executors.pool.CALL_SECONDS", 0.05)

    class Silent(Executor):
        def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return Future()

    with pytest.raises(ExecutorError, match="gave no result within"):
        whole_run("ecdh", Silent(), ids=40)


@pytest.mark.parametrize("extra", ["dask", "ray"])
def test_a_missing_extra_is_named(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"dask": "distributed"}.get(extra, extra), None)
    with pytest.raises(ExecutorError, match=rf"pip install 'heterofed\[{extra}\]'"):
        open_pool(f"{extra}://127.0.0.1:9")


def children() -> set[int]:
    """The processes of `psi.executors.processes` that this one has started."""
    shown = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return {int(line.split()[0]) for line in shown.stdout.splitlines() if "executors" in line}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["ecdh", "rsa"])
def test_processes_do_the_work_and_are_replaced(protocol: psi.Protocol) -> None:
    pool = Processes(2)
    try:
        started = children()
        assert len(started) == 2

        def kill_all() -> None:
            for each in children() & started:
                os.kill(each, signal.SIGKILL)

        whole_run(protocol, pool, between=kill_all)
        assert children() - started, "others have come"
    finally:
        pool.close()
    assert not children(), "none is left"


@pytest.mark.slow
def test_a_process_tells_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psi.executors.pool.CALL_SECONDS", 20.0)
    pool = Processes(1)
    try:
        with pytest.raises(WorkerError, match="failed with ValueError"):
            call(pool, unpack, [b"x"])  # type: ignore[arg-type]
        assert call(pool, prefixed, [b"x", b""]) == prefixed(b"x", b"")
    finally:
        pool.close()


def killing(pids: list[int]) -> Callable[[], None]:
    """Return a function that kills the next of these processes at each call."""

    def kill() -> None:
        if pids:
            os.kill(pids.pop(), signal.SIGKILL)

    return kill


@pytest.mark.long
def test_a_dask_cluster_does_the_work_and_loses_workers_and_its_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dask: Any = pytest.importorskip("distributed")
    with dask.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        pool = open_pool(cluster.scheduler_address.replace("tcp:", "dask:"))
        assert pool is not None
        assert pool.slots == 2
        try:
            with dask.Client(cluster) as client:
                pids = list(client.run(os.getpid).values())
            whole_run("ecdh", pool, between=killing(pids[:1]))
            whole_run("rsa", pool, between=killing(pids[1:]))
            assert call(pool, prefixed, [b"x"])  # the nannies have started new ones
            monkeypatch.setattr("psi.executors.pool.CALL_SECONDS", 10.0)
            with pytest.raises(ExecutorError, match=r"dask://.*\(dask scheduler\)"):
                whole_run("ecdh", pool, between=cluster.close)
        finally:
            pool.close()


@pytest.mark.slow
def test_a_dask_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("psi.executors.dask.CONNECT_SECONDS", 1.0)
    with pytest.raises(ExecutorError, match=r"dask://127.0.0.1:9 does not answer; start the sched"):
        psi.signer("ecdh", IDS, domain=RUN, executor="dask://127.0.0.1:9", key_leaves=True)


@pytest.mark.long
def test_a_ray_cluster_does_the_work_and_loses_workers() -> None:
    ray: Any = pytest.importorskip("ray")
    start_ray(ray)
    try:
        pool = open_pool("ray://auto")
        assert pool is not None
        assert pool.slots == 2
        whole_run("ecdh", pool)

        def kill() -> None:
            for process in workers_of_ray():
                os.kill(process, signal.SIGKILL)

        whole_run("rsa", pool, between=kill)
        pool.close()
        assert ray.is_initialized(), "who had joined before stays"
    finally:
        ray.shutdown()


def start_ray(ray: Any) -> None:
    """Start a cluster, which takes up to a minute on a busy machine, where Ray waits for half."""
    for left in (2, 1, 0):
        try:
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=100_000_000,
            )
        except Exception:
            ray.shutdown()
            if not left:
                raise
        else:
            return


def workers_of_ray() -> list[int]:
    shown = subprocess.run(
        ["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=False, timeout=30
    )
    own = [line.split(None, 1) for line in shown.stdout.splitlines()]
    return [int(pid) for pid, args in own if args.startswith(("ray::IDLE", "ray::power_d"))]
