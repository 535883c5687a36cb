"""What a process that lives for months would grow by: nothing per intersection."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from psi import Signer
from psi.workers import shared_pool
from tests.psi.helpers import exchange, requester, signer

pytestmark = pytest.mark.long

SOAK = """
import os, sys, threading
from psi import intersect

def taken():
    pages = int(open("/proc/self/statm").read().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE"), threading.active_count(), files

ids = [str(number) for number in range(96)]
for _ in range(10):
    intersect(ids, ids, protocol=sys.argv[1])
before = taken()
for _ in range(int(sys.argv[2])):
    intersect(ids, ids, protocol=sys.argv[1])
print(*(now - then for now, then in zip(taken(), before)))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is taken")
@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_repeated_intersections_take_no_more(protocol: str) -> None:
    """Threads of their own would leave 160 kB each time in caches of the arithmetic."""
    runs = 25
    told = subprocess.run(
        [sys.executable, "-c", SOAK, protocol, str(runs)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    grown, threads, files = map(int, told.split())
    assert grown / runs < 40_000
    assert (threads, files) == (0, 0)


def test_a_forked_child_has_threads_of_its_own() -> None:
    assert shared_pool().submit(os.getpid).result() == os.getpid()
    child = os.fork()
    if not child:
        try:
            os._exit(int(shared_pool().submit(os.getpid).result(20) != os.getpid()))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_program_ends_though_tags_are_still_to_be_made() -> None:
    program = (
        "from psi import domain, signer; it = signer('ecdh', map(str, range(10**6)),"
        " domain=domain('t', 'r')); it.precompute()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_runs_share_the_threads() -> None:
    before = {each.ident for each in threading.enumerate()}
    ids = [str(number) for number in range(64)]
    for _ in range(3):
        with signer(ids, workers=3) as signing, requester(ids, signing, workers=3) as asking:
            assert isinstance(signing, Signer)
            exchange(asking, signing)
    named = [each for each in threading.enumerate() if each.ident not in before]
    assert all(each.name.startswith("psi_") for each in named)
    assert len(named) <= 6
