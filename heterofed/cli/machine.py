"""Looks at this machine before a run: versions, cores, memory, disk, open files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from heterofed._version import __version__
from heterofed.reporting.units import bytes_shown
from psi.workers import usable_cores

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""The file of Linux with a random number that each start of the kernel draws."""

LEAST_FILES = 1024
"""The number of open files below which a Host with several parties may run out of them."""

LEAST_MEMORY = 1 << 30
"""The free memory in bytes below which torch and an intersection may not fit."""

LEAST_DISK = 1 << 30
"""The free disk space in bytes below which checkpoints may not fit."""

ID_BYTES = 200
"""About the bytes on the disk and in memory for one id of an intersection."""


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine as a process sees it.

    Attributes:
        version: the version of heterofed.
        python: the version of Python.
        torch: the version of torch.
        cores: the number of cores that this process may use.
        memory: the free memory in bytes; within a container, what is left of its limit.
        disk: the free bytes where results are written.
        files: the most files that this process may open.
    """

    version: str
    python: str
    torch: str
    cores: int
    memory: int
    disk: int
    files: int

    def __str__(self) -> str:
        return (
            f"heterofed {self.version}, Python {self.python}, torch {self.torch or 'missing'};"
            f" {self.cores} cores, {bytes_shown(self.memory)} of memory and"
            f" {bytes_shown(self.disk)} of disk free, {self.files} open files"
        )


def this_machine(results: Path) -> Machine:
    """Return the facts of this machine; nothing is written.

    Args:
        results: the folder for results, which need not exist.
    """
    return Machine(
        version=__version__,
        python=platform.python_version(),
        torch=_version_of("torch"),
        cores=usable_cores(),
        memory=free_memory(),
        disk=shutil.disk_usage(_nearest(results)).free,
        files=_most_files(),
    )


def machine_digest(task: bytes) -> bytes:
    """Return 16 bytes that only parties of a task under one running kernel have in common.

    Nobody can tell from them which machine it is. They are empty if the system does not say.

    Args:
        task: the digest of the task.
    """
    with contextlib.suppress(OSError):
        return hashlib.blake2b(BOOT.read_bytes(), key=task, digest_size=16).digest()
    return b""


def warnings(machine: Machine, ids: int, files_needed: int = LEAST_FILES) -> Iterator[str]:
    """Yield a sentence with a remedy for each fact that may end a run.

    Args:
        machine: the facts.
        ids: the number of ids of this party.
        files_needed: the number of files that the run may have open.
    """
    need = ids * ID_BYTES
    if machine.files < files_needed:
        yield (
            f"a process may open {machine.files} files, and {files_needed} may be needed: raise"
            " the limit (ulimit -n, or LimitNOFILE= of a systemd unit)"
        )
    if machine.memory < LEAST_MEMORY + need:
        yield (
            f"{bytes_shown(machine.memory)} of memory are free, and about"
            f" {bytes_shown(LEAST_MEMORY + need)} are needed: end other programs, or raise the"
            " limit of the container"
        )
    if machine.disk < LEAST_DISK + need:
        yield (
            f"{bytes_shown(machine.disk)} of disk are free, and about"
            f" {bytes_shown(LEAST_DISK + need)} are needed: make room, or give another --results"
        )


def free_memory() -> int:
    """Return the free memory in bytes, of the machine or of this container, whichever is less."""
    free = [_machine_memory()]
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append(max(0, most - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    return min(free)


def _machine_memory() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(each for each in lines if each.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    pages = os.sysconf("SC_PHYS_PAGES")  # macOS does not say how many are free
    return pages * os.sysconf("SC_PAGE_SIZE")


def _most_files() -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 20) if soft == resource.RLIM_INFINITY else min(soft, 1 << 20)


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _nearest(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())
