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
    copy records nothing. An input that is no tensor may have a method `as_numbers`, which returns
    what the leak report attacks: floats of shape [rows, numbers].

    Args:
        harmless: reports failures of the hook, while the call of the model continues.
    """

    def __init__(self, harmless: Harmless) -> None:
        self._harmless = harmless
        self._seen: list[Any] = []

    def __call__(self, _model: nn.Module, arguments: tuple[Any, ...]) -> None:
        with self._harmless(REPORT):
            if arguments and (hasattr(arguments[0], AS_NUMBERS) or _is_float(arguments[0])):
                self._seen.append(arguments[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _sees_nothing, ()

    def taken(self, rows: int, *, wanted: bool = True) -> Tensor | None:
        """Return the inputs of the last batch if the model was called once, with one row per row.

        Args:
            rows: the number of rows of the batch.
            wanted: whether the inputs are used; otherwise they are only forgotten.
        """
        seen, self._seen = self._seen, []
        with self._harmless(REPORT):
            if wanted and len(seen) == 1:
                found = getattr(seen[0], AS_NUMBERS, lambda: seen[0])()
                if _is_float(found) and len(found) == rows:
                    numbers: Tensor = found.detach()
                    return numbers
        return None


AS_NUMBERS = "as_numbers"
"""The name of the method of inputs that are no tensor."""


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _sees_nothing() -> Callable[..., None]:
    return _see_nothing


def _see_nothing(*_: Any) -> None:
    """Replaces the hook in a copy of the model, and does nothing."""
