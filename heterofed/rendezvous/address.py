"""Checks that Hosts can listen at the addresses of their tasks, before they do any work.

A table is read and models are loaded before the parties meet, which can take minutes. Only one
process can listen for a task, whatever it does, so a second one is told at once.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from heterofed.errors import ConfigError
from heterofed.files import heterofed_home
from heterofed.identity.task_file import known_task
from heterofed.rendezvous.local import HostLock, lock_path
from heterofed.transport.names import host_and_port


def check_free(*tasks: str, turns: str = "") -> None:
    """Check that no other process on this machine listens for any of some tasks.

    Args:
        tasks: the ids of the tasks for which one process is to listen.
        turns: a purpose whose Hosts wait for each other, so that another Host with this purpose, or
            with none that is known yet, is no reason to refuse.

    Raises:
        ConfigError: one does, or two of the tasks have the same address; the message says what to
            do.
    """
    home, taken = heterofed_home(), dict[str, str]()
    for task in tasks:
        found = known_task(task, home)
        address = found.listens_at if found else ""
        if address and (other := taken.setdefault(address, task)) != task:
            raise ConfigError(
                f"the tasks {other!r} and {task!r} have the same address in their files"
                f" ({address}); give one of them another port, and have it accepted anew"
            )
        lock = HostLock(task, lock_path(task, home), doing="check")
        with ExitStack() as held:
            try:
                held.enter_context(lock)
            except ConfigError:
                if turns and lock.held_for in ("", "check", turns):
                    continue
                raise
            _check_bindable(task, address)


def _check_bindable(task: str, address: str) -> None:
    host, port = host_and_port(address)
    if not port.isdigit():
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server(("" if host == "*" else host, int(port)), family=family).close()
    except OSError as error:  # what else may be wrong shows when the Host listens
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"nothing can listen at {address}, the address of task {task!r}"
                f" ({error.strerror}): stop what listens there, such as the Host of another task,"
                " or set `bind` in the task file to another address of this machine"
            ) from None
