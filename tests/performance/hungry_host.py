"""A Host that says how much memory one batch of bob's features took it.

python -m tests.performance.hungry_host TASK RESULTS ROWS
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.e2e.tiny import TinyHost


def memory(field: str) -> int:
    """Bytes of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


class HungryHost(TinyHost):
    """Holds labels alone."""

    rows = 1

    def make_feature_model(self) -> Any:
        return None

    def make_feature_optimizer(self, feature_model: Any) -> Any:
        return None

    def make_infer_model(self) -> Any:
        return torch.nn.Linear(1, 1)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        yield None, torch.zeros(self.rows)
        print(f"took {memory('VmHWM') - before} bytes", flush=True)
        yield None, torch.zeros(self.rows)

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        self.optimizer.zero_grad()
        one = feature_projection["bob"].view(-1)[:1]  # no copy, as those of a user might be
        loss = self.infer_model(one.float()).sum()
        loss.backward()
        self.optimizer.step()
        return loss


def main() -> None:
    task, results, rows = sys.argv[1:]
    host = HungryHost(Path(results))
    host.rows = int(rows)
    host.launch_task(task)


if __name__ == "__main__":
    main()
