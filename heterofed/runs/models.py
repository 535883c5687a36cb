"""Makes the models and optimizers of one run when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from heterofed.compute.autograd import Lazy
from heterofed.compute.joint_optimizer import JointOptimizer


class ModelRegistry:
    """The models and optimizers of one party in one run, by name.

    Args:
        makers: the functions that make them, by name.
        saved: the names of the models that are written to the results folder.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Any]], saved: Sequence[str]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Lazy] = {}
        self.saved = tuple(saved)

    def made(self, name: str) -> Any:
        """Return a model or optimizer, which is made at the first call."""
        if name not in self._made:
            self._made[name] = Lazy(self._makers[name])
        return self._made[name]()

    def make_all(self) -> None:
        """Make all models and optimizers that do not exist yet, so that errors show now."""
        for name in self._makers:
            self.made(name)

    def models(self) -> list[nn.Module | None]:
        """Return the models for the results folder, with None for those that this party does not
        have.
        """
        return [self.made(name) for name in self.saved]

    def stateful(self) -> dict[str, nn.Module | Optimizer]:
        """Return the existing models and optimizers, whose state is saved."""
        things = {name: self.made(name) for name in self._makers}
        return {
            name: thing
            for name, thing in things.items()
            if isinstance(thing, nn.Module | Optimizer) and not isinstance(thing, JointOptimizer)
        }

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the existing optimizers."""
        found = self.stateful().items()
        return {name: each for name, each in found if isinstance(each, Optimizer)}

    def forget(self) -> None:
        """Forget all models and optimizers, so that they are made again."""
        self._made.clear()
