"""Writes the parts of the documentation that are made from the code, so that they cannot drift.

python -m docs.generate             # write them
python -m docs.generate --check     # write nothing; name what is stale, and exit with 1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from docs.generator import pages
from docs.generator.markdown import COMMAND


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` only name the stale ones."""
    if list(arguments) not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    checking = bool(arguments)
    found = pages.stale()
    for path, text in found.items():
        name = pages.name_of(path)
        if checking:
            print(f"stale: {name} (run `{COMMAND}`)", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if checking and found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
