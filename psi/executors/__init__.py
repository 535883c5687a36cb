"""Runs the expensive chunks of an intersection in other processes, or on a cluster.

    open_pool("processes:8")             8 processes of this machine
    open_pool("dask://scheduler:8786")   a Dask cluster (extra heterofed[dask])
    open_pool("ray://head:10001")        a Ray cluster (extra heterofed[ray])
    open_pool(executor)                  any `concurrent.futures.Executor`, which the caller owns

The rule of this package: it carries functions of psi and bytes, and knows no protocol, no key and
no id. Whether what a worker returned is right is checked by those who call it.
"""

from __future__ import annotations

import re
from concurrent.futures import Executor

from psi.errors import ExecutorError
from psi.executors.pool import Pool

__all__ = ["Pool", "check_address", "check_key", "may_leave", "open_pool"]

MOST_PROCESSES = 256
_PROCESSES = re.compile(r"processes:([1-9][0-9]{0,2})")
_CLUSTER = re.compile(r"(dask|dask\+tls|ray)://[^\s/]+:[0-9]{1,5}|ray://auto")


def check_address(given: object) -> None:
    """Refuse what is no executor, before anything is started.

    Raises:
        ExecutorError: it is neither an executor nor the address of one.
    """
    if given is None or isinstance(given, Executor | Pool):
        return
    if isinstance(given, str):
        processes = _PROCESSES.fullmatch(given)
        if _CLUSTER.fullmatch(given) or (processes and int(processes[1]) <= MOST_PROCESSES):
            return
    raise ExecutorError(
        f'{given!r} is no executor; give "processes:8" (up to {MOST_PROCESSES}),'
        ' "dask://scheduler:8786", "ray://head:10001" or a concurrent.futures.Executor'
    )


def may_leave(given: object) -> bool:
    """Return whether work for this executor, or for this address of one, may leave this machine."""
    check_address(given)
    if isinstance(given, str):
        return not given.startswith("processes:")
    if isinstance(given, Executor):
        from psi.executors.given import Given

        return Given(given).elsewhere
    return isinstance(given, Pool) and given.elsewhere


def check_key(given: object, key_leaves: bool | None) -> None:
    """Refuse an executor for work with a secret key that must not leave this machine.

    Args:
        given: the executor or its address.
        key_leaves: whether the key may leave; None trusts an executor object that the caller made,
            and no address.

    Raises:
        ExecutorError: the executor is, or may be, elsewhere.
    """
    trusted = key_leaves is None and not isinstance(given, str)
    if not key_leaves and not trusted and may_leave(given):
        raise ExecutorError(
            "the secret key would be sent to an executor on other machines; give key_leaves=True if"
            ' each of them may have it, use "processes:8" on this machine, or leave the executor'
            " out"
        )


def open_pool(given: object) -> Pool | None:
    """Return the pool for an executor or its address; None for None.

    The caller closes what it opened by an address.

    Raises:
        ExecutorError: it is no executor, its library is missing, or it does not answer.
    """
    check_address(given)
    if given is None or isinstance(given, Pool):
        return given
    if isinstance(given, Executor):
        from psi.executors.given import Given

        return Given(given)
    address = str(given)
    if address.startswith("processes:"):
        from psi.executors.processes import Processes

        return Processes(int(address.partition(":")[2]))
    if address.startswith("ray:"):
        from psi.executors.ray import Ray

        return Ray(address)
    from psi.executors.dask import Dask

    return Dask(address)
