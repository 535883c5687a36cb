"""A module whose layers follow from a plain description, which its `state_dict` holds as bytes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from heterofed.errors import ConfigError

P = TypeVar("P", bound=msgspec.Struct)


class Described(nn.Module, Generic[P]):
    """A module that a file of its weights is enough to make.

    Args:
        plan: the description; None leaves the module empty until it is given a `state_dict`.
    """

    kind: ClassVar[type[msgspec.Struct]]
    """The type of the description."""

    def __init__(self, plan: P | None = None) -> None:
        super().__init__()
        self.plan = plan
        if plan is not None:
            self.make(plan)

    @abstractmethod
    def make(self, plan: P) -> None:
        """Make the layers; all weights lie in them, and none in the module itself."""

    def get_extra_state(self) -> Tensor:
        """The description as JSON in bytes: any file of tensors can hold it, and no code runs to
        read it.
        """
        return torch.frombuffer(bytearray(msgspec.json.encode(self.plan)), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Become what a description says; `load_state_dict` calls it before the layers' weights.

        Raises:
            ConfigError: it is no description of such a module.
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
