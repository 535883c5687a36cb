"""Records the inputs of a feature model by a hook on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from heterofed.hetero_nn.train.guard import REPORT
from heterofed.reporting.diagnostics import Harmless


class ModelCalls:
    """A hook of the feature model that records its inputs.

    The hook is attached to the user's model, which must stay copyable and picklable. The hook of a
    copy records nothing.

    Args:
        harmless: reports failures of the hook, while the call of the model continues.
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
        """Return the inputs of the last batch if the model was called once, with one row per
        row.
        """
        seen, self._seen = self._seen, []
        with self._harmless(REPORT):
            if len(seen) == 1 and len(seen[0]) == rows:
                return seen[0]
        return None


def _sees_nothing() -> Callable[..., None]:
    return _see_nothing


def _see_nothing(*_: Any) -> None:
    """Replaces the hook in a copy of the model, and does nothing."""
