"""What the how-to shows works, as it stands there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/psi-only.md"


def samples() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["ecdh", "rsa"])
def test_two_parties_in_a_few_lines(protocol: str, tmp_path: Path) -> None:
    port, named = str(free_port()), {}
    for code in samples():
        title = re.match(r"# (\w+)\.py\n", code)
        if title:
            lines = [line for line in code.splitlines() if line and not line.startswith("#")]
            assert len(lines) <= 20, title
            named[title[1]] = code.replace("7001", port).replace('"ecdh"', f'"{protocol}"')
    assert named.keys() == {"both", "signer", "requester"}
    # The requester may come before the signer listens, so it tries again.
    again = "import time\nend = time.monotonic() + 60\nwhile True:\n    try:\n        {}\n"
    again += "        break\n    except ConnectionRefusedError:\n"
    again += "        assert time.monotonic() < end\n        time.sleep(0.1)\n"
    named["requester"] = again.format(f"exec({named['requester']!r})")
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[2]
        )
        for name, code in named.items()
    }
    for process in started.values():
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert printed == "['bob', 'cyd']\n"


def test_other_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in samples():
        if not code.startswith("# "):
            exec(code, {})


def test_the_page_on_many_parties_shows_what_comes_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (PAGE.parents[1] / "explanation/psi-n-parties.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.M | re.S)
    assert found is not None
    exec(found[1], {})
    assert capsys.readouterr().out == found[2]
