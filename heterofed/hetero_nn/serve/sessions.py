"""Keeps a standing link: one session after another, with a pause after each that failed."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable

import msgspec

from heterofed.errors import HeteroFedError, ResumeError, TaskFailed
from heterofed.hetero_nn.serve import agreed_table
from heterofed.runs.beside import launch_beside
from heterofed.runs.task import Task

logger = logging.getLogger("heterofed")

PAUSE_SECONDS, LONGEST_PAUSE = 0.5, 30.0
"""The pause in seconds after a session that failed, and the one after many that served nothing."""


_BUILDING = threading.Lock()
"""Held by the thread that builds types; others wait for it."""


class StandingTask(Task):
    """A session of a standing link.

    Attributes:
        met: whether the parties were connected.
        served: the number of requests that were answered.
    """

    met = False
    served = 0


def keep_open(make: Callable[[], StandingTask], task_id: str, stop: threading.Event) -> int:
    """Run sessions until `stop` is set, and return the number of requests that were answered.

    Raises:
        ConfigError: a setting or file of this party is wrong, before it has met the others once.
        Exception: a hook of this party raised it, before it has met the others once.
    """
    build_types()
    pause, served, ever_met = PAUSE_SECONDS, 0, False
    while not stop.is_set():
        session = make()
        if stop.is_set():
            break
        try:
            launch_beside(session, task_id)
        except ResumeError:  # the plan has changed since the table was agreed on
            if session.run is not None:
                agreed_table.discard(session.run.result.folder)
        except Exception as error:
            if not ever_met and not session.met and not isinstance(error, TaskFailed):
                raise
            if not isinstance(error, TaskFailed):  # these are logged already
                own = None if isinstance(error, HeteroFedError) else error
                logger.error("the link has failed: %s", shown(error), exc_info=own)
        served += session.served
        ever_met = ever_met or session.met
        pause = PAUSE_SECONDS if session.served else min(LONGEST_PAUSE, 2 * pause)
        if not stop.is_set():
            stop.wait(pause)
    return served


@functools.cache
def build_types() -> None:
    """Have msgspec build its descriptions of all types of ours that are loaded, once.

    It does so when a type is first decoded, and crashes if two threads do it at the same time. The
    links of several tasks, and the versions that are loaded beside them, are such threads.
    """
    with _BUILDING:
        kinds = [msgspec.Struct]
        for kind in kinds:
            kinds += [each for each in kind.__subclasses__() if each not in kinds]
            if kind.__module__.startswith("heterofed."):
                with contextlib.suppress(TypeError):  # a base that is decoded only by a subclass
                    msgspec.msgpack.Decoder(kind)


def shown(error: Exception) -> str:
    """Return what a log may say of an error; the text of a foreign one may hold data."""
    return str(error) if isinstance(error, HeteroFedError) else type(error).__name__
