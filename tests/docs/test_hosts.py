"""No file of the project names the host of a package index or of a mirror.

An installation takes those from its user's settings; a host in a file would overrule them, and
would tell where somebody works.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT


def host(*parts: str) -> str:
    """A name of these parts. This file names no host either, so it is checked like all others."""
    return ".".join(parts)


INDEXES = tuple(
    re.escape(".").join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("python(?:hosted)", "org"),
        ("anaconda", "(?:org|com)"),
        ("registry", "npmjs", "(?:org|com)"),
        ("registry", "yarnpkg", "com"),
        ("npmmirror", "com"),
        ("proxy", "golang", "org"),
        ("goproxy", "(?:cn|io)"),
        ("crates", "io"),
        ("download", "pytorch", "org"),
        ("(?:archive|deb|ports|security)", "(?:debian|ubuntu)", "(?:com|org)"),
    )
)
"""The hosts of well-known indexes, also with a name before them."""

LABELS = r"(?:artifactory|devpi|index|mirrors?|nexus|pypi)"
ENDS = r"(?:cn|com|corp|dev|edu|internal|io|lan|local|net|org)"
PATTERNS = (
    *(rf"(?<![\w-]){each}(?![\w-])" for each in INDEXES),
    rf"(?<![\w.-]){LABELS}(?:\.[a-z0-9-]+)*\.{ENDS}(?![\w-])",  # a label and a domain
    r"//[a-z0-9.:-]+/(?:[\w.-]+/)*(?:artifactory|devpi|nexus|pypi|simple)/",  # a domain and a label
)
HOSTS = re.compile("|".join(PATTERNS), re.IGNORECASE)
"""The names of indexes, and the forms that mirrors of them usually have."""


def tracked() -> list[Path]:
    """The files that git keeps or would keep."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a clone")
    paths = (ROOT / each for each in found.stdout.decode().split("\0") if each)
    return [path for path in paths if path.is_file()]


@pytest.mark.slow
def test_no_file_names_the_host_of_an_index() -> None:
    found = {
        str(path.relative_to(ROOT)): match.group()
        for path in tracked()
        if (match := HOSTS.search(path.read_text(encoding="utf-8", errors="ignore")))
    }
    assert not found, found


@pytest.mark.parametrize(
    "text",
    [
        f"https://{host('pypi', 'org')}/simple",
        f"index-url = https://{host('files', 'python')}{host('hosted', 'org')}/x",
        f"--index-url https://{host('download', 'pytorch', 'org')}/whl/cpu",
        f"https://{host('mirrors', 'some-university', 'edu', 'cn')}/debian",
        f"http://{host('nexus', 'bank', 'internal')}:8081/repository",
        f"https://{host('10', '0', '0', '7')}:8080/root/{'pypi'}/+simple/",
        f"deb http://{host('deb', 'debian', 'org')}/debian bookworm main",
    ],
)
def test_the_check_sees_hosts(text: str) -> None:
    assert HOSTS.search(text)


@pytest.mark.parametrize(
    "text",
    ["the classifier of PyPI", "https://github.com/a/index/", "data.index.name", "df.index.io_"],
)
def test_the_check_passes_what_is_no_host(text: str) -> None:
    assert HOSTS.search(text) is None
