"""Defines modules whose layers follow from a plain description, which their `state_dict`
contains.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from heterofed.errors import ConfigError

P = TypeVar("P", bound=msgspec.Struct)


class Described(nn.Module, Generic[P]):
    """A module that can be made from a file of its weights alone.

    Args:
        plan: the description; None leaves the module empty until it gets a `state_dict`.
    """

    kind: ClassVar[type[msgspec.Struct]]
    """Return the type of the description."""

    def __init__(self, plan: P | None = None) -> None:
        super().__init__()
        self.plan = plan
        if plan is not None:
            self.make(plan)

    @abstractmethod
    def make(self, plan: P) -> None:
        """Make the layers, which have all weights; the module itself has none."""

    def get_extra_state(self) -> Tensor:
        """Return the description as JSON in bytes, which any file of tensors can hold.

        No code runs when it is read.
        """
        return torch.frombuffer(bytearray(msgspec.json.encode(self.plan)), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Make the layers of a description; `load_state_dict` calls this before it loads their
        weights.

        Raises:
            ConfigError: it is not a description of such a module.
        """
        try:
            plan: Any = msgspec.json.decode(bytes(state.numpy()), type=self.kind)
        except (msgspec.MsgspecError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"these weights do not say what their {type(self).__name__} is made of"
                f" ({type(error).__name__}): they are of another model, or damaged"
            ) from None
        if plan != self.plan:
            for name, _ in list(self.named_children()):
                delattr(self, name)
            self.plan = plan
            self.make(plan)
