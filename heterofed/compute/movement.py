"""Detects models that training does not change.

Possible causes are `torch.no_grad` around a feature hook, an optimizer of other parameters, or a
loss without a backward pass. PyTorch reports none of them, and the run would seem to succeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from heterofed.compute.sharded_tensors import own_part

LOOKED_AT = 4096
"""The count of numbers of a parameter that are compared by value, beside its version."""


class Movement:
    """A record of models before some steps, to be compared with the models afterwards.

    A model is not checked if its parameters take no gradient or have no shape yet.

    Args:
        models: the models by name.
    """

    def __init__(self, models: Mapping[str, nn.Module | None]) -> None:
        self._before = {
            name: [(each, _mark_of(each), _some_of(each)) for each in learning]
            for name, model in models.items()
            if model is not None and (learning := _learning(model))
        }

    def unmoved(self) -> list[str]:
        """Return the names of the models of which no parameter has changed."""
        return [
            name
            for name, parameters in self._before.items()
            if not any(_has_changed(*each) for each in parameters)
        ]


def _learning(model: nn.Module) -> list[Tensor]:
    parameters = list(model.parameters())
    if any(nn.parameter.is_lazy(each) for each in parameters):
        return []
    return [each for each in parameters if each.requires_grad and each.numel()]


def _has_changed(parameter: Tensor, mark: Any, some: Tensor) -> bool:
    # Versions also change with steps of zero; changes through `.data` show only in the values.
    return _mark_of(parameter) != mark or not _some_of(parameter).equal(some)


def _mark_of(parameter: Tensor) -> Any:
    return own_part(parameter).data_ptr(), parameter._version


def _some_of(parameter: Tensor) -> Tensor:
    return own_part(parameter).detach().reshape(-1)[:LOOKED_AT].clone()
