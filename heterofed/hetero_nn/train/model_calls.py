"""What a feature model is called with, seen by a hook on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from heterofed.hetero_nn.train.guard import REPORT
from heterofed.reporting.diagnostics import Harmless


class ModelCalls:
    """A hook of the feature model that sees what it is called with.

    It hangs on the user's model, so a copy or a pickle of that has to work: there it sees nothing.

    Args:
        harmless: tells where it fails; the model's call goes on.
    """

    def __init__(self, harmless: Harmless) -> None:
        self._harmless = harmless
        self._seen: list[Tensor] = []

    def __call__(self, _model: nn.Module, arguments: tuple[Any, ...]) -> None:
        with self._harmless(REPORT):
            first = arguments[0] if arguments else None
            if isinstance(first, Tensor) and first.is_floating_point() and first.dim() > 0:
                self._seen.append(first.detach())

    def __reduce__(self) -> tuple[Any, ...]:
        return _sees_nothing, ()

    def taken(self, rows: int) -> Tensor | None:
        """Inputs of the last batch, where the model was called once and row for row."""
        seen, self._seen = self._seen, []
        with self._harmless(REPORT):
            if len(seen) == 1 and len(seen[0]) == rows:
                return seen[0]
        return None


def _sees_nothing() -> Callable[..., None]:
    return _see_nothing


def _see_nothing(*_: Any) -> None:
    """What a copy of the model has in place of the hook."""
