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

INDEXES = (
    r"pypi\.org",
    r"pypi\.python\.org",
    r"pythonhosted\.org",
    r"anaconda\.(?:org|com)",
    r"registry\.npmjs\.(?:org|com)",
    r"registry\.yarnpkg\.com",
    r"npmmirror\.com",
    r"proxy\.golang\.org",
    r"goproxy\.(?:cn|io)",
    r"crates\.io",
    r"download\.pytorch\.org",
    r"(?:archive|deb|ports|security)\.(?:debian|ubuntu)\.(?:com|org)",
)
"""The hosts of well-known indexes, also with a name before them."""

LABELS = r"(?:artifactory|devpi|index|mirrors?|nexus|pypi)"
ENDS = r"(?:cn|com|corp|dev|edu|internal|io|lan|local|net|org)"
PATTERNS = (
    *(rf"(?<![\w-]){each}(?![\w-])" for each in INDEXES),
    rf"(?<![\w.-]){LABELS}(?:\.[a-z0-9-]+)*\.{ENDS}(?![\w-])",  # mirrors.example.com
    r"//[a-z0-9.:-]+/(?:[\w.-]+/)*(?:artifactory|devpi|nexus|pypi|simple)/",  # example.com/pypi/
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
    return [path for path in paths if path.is_file() and path != Path(__file__)]


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
        "https://pypi.org/simple",
        "index-url = https://files.pythonhosted.org/x",
        "--index-url https://download.pytorch.org/whl/cpu",
        "https://mirrors.some-university.edu.cn/debian",
        "http://nexus.bank.internal:8081/repository",
        "https://10.0.0.7:8080/root/pypi/+simple/",
        "deb http://deb.debian.org/debian bookworm main",
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
