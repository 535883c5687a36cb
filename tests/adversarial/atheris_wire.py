"""Fuzz the decoder and the session with libFuzzer, guided by coverage of their Python code.

    python -m pip install atheris  # no development dependency: few platforms have it
    python -m tests.adversarial.atheris_wire \\
        -runs=1000000 -max_len=1024 -rss_limit_mb=1024 -timeout=5

It stops at the first exception that is not one of the named ones, at an input that takes over 5 s,
and at 1 GiB of memory. `-print_final_stats=1` shows the numbers; a folder as last argument keeps
the inputs.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["heterofed", "tests.adversarial.hostile_bytes"]):
    from tests.adversarial.hostile_bytes import say


def main() -> None:
    atheris.Setup(sys.argv, lambda data: say(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
