"""The page's server beside a run, as a process of its own.

So it takes no time of the run's process. It ends with that process, however that ends: its stdin is
a pipe that the run's process holds open.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from heterofed.reporting.log_lines import chosen_format, one_record
from heterofed.watch.extra import needed

logger = logging.getLogger("heterofed")

BYE_SECONDS = 5.0


@contextmanager
def watched(results: Path, task: str) -> Iterator[None]:
    """Serve the page of a task during the block, and print its address to stderr.

    The address holds the token, so it is printed and not logged. A server that cannot be started
    costs one log line.

    Args:
        results: the folder of results, `<results>/<task>/<party>`.
        task: the id of the task.

    Raises:
        ConfigError: the extra `watch` is not installed.
    """
    needed()
    server = _started(results, task)
    try:
        yield
    finally:
        if server is not None:
            _end(server)


def _started(results: Path, task: str) -> subprocess.Popen[bytes] | None:
    try:
        server = subprocess.Popen(  # noqa: S603 - our own program, no shell
            command_of(results, task),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        logger.warning("the live page cannot be served (%s); the run goes on", error.strerror)
        return None
    if server.stdout is not None:
        threading.Thread(target=_pass_on, args=[server.stdout], daemon=True).start()
    return server


def command_of(results: Path, task: str) -> list[str]:
    """Return the command that serves the page of a task until its stdin ends."""
    # -P: no module is taken from the working directory, which others may be able to write to.
    ours = [sys.executable, "-P", "-m", "heterofed", "watch", "--until-stdin-ends"]
    return [*ours, "--results", str(results), "--", task]


def _pass_on(lines: IO[bytes]) -> None:
    """Print what the server prints, where the user of this process sees it: in a notebook, too."""
    with lines, contextlib.suppress(OSError, ValueError, AttributeError):
        for line in lines:
            text = line.decode(errors="replace")
            is_json = chosen_format() == "json"
            sys.stderr.write(one_record(text.strip()) + "\n" if is_json else text)
            sys.stderr.flush()


def _end(server: subprocess.Popen[bytes]) -> None:
    """Let viewers have a last look; a server that does not end in time is killed."""
    if server.stdin is not None:
        with contextlib.suppress(OSError):
            server.stdin.close()
    try:
        server.wait(BYE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
