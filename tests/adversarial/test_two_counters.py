"""Two processes of a party cannot both take the last of a limit of the terms."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heterofed.errors import LeakLimitError
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.runs.term_limits import BytesLimit, count_round


@pytest.mark.parametrize("measure", ["rounds", "bytes"])
def test_only_one_of_two_processes_takes_the_last(
    measure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReleaseLedger(tmp_path, "task", "bank").close()
    both, counted = threading.Barrier(2), ReleaseLedger.counted

    def slow(self: ReleaseLedger, run: bytes, what: str) -> int:
        found = counted(self, run, what)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # both have read the count, unless one of them has to wait
        return found

    def take(_: int) -> bool:
        ledger = ReleaseLedger(tmp_path, "task", "bank")
        run: Any = SimpleNamespace(
            plan=SimpleNamespace(limits=SimpleNamespace(max_rounds=1, max_bytes=10)),
            opened_ledger=lambda: ledger,
            party=SimpleNamespace(name="bank"),
        )
        try:
            if measure == "rounds":
                count_round(run)
            else:
                BytesLimit(run, 10).leaves("peer", SimpleNamespace(), 10)  # type: ignore[arg-type]
        except LeakLimitError:
            return False
        finally:
            ledger.close()
        return True

    monkeypatch.setattr(ReleaseLedger, "counted", slow)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(take, range(2))) == [False, True]
