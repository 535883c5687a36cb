"""The models and optimizers of one run, made when they are first asked for."""

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
        makers: how each is made.
        saved: which of them are models that the results folder gets.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Any]], saved: Sequence[str]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Lazy] = {}
        self.saved = tuple(saved)

    def made(self, name: str) -> Any:
        """A model or optimizer, made now where it was not asked for before."""
        if name not in self._made:
            self._made[name] = Lazy(self._makers[name])
        return self._made[name]()

    def make_all(self) -> None:
        """Make what was not asked for yet: what is wrong with it shows now."""
        for name in self._makers:
            self.made(name)

    def models(self) -> list[nn.Module | None]:
        """The models that the results folder gets; None for one that this party does without."""
        return [self.made(name) for name in self.saved]

    def stateful(self) -> dict[str, nn.Module | Optimizer]:
        """The models and optimizers that there are, which have a state to keep."""
        things = {name: self.made(name) for name in self._makers}
        return {
            name: thing
            for name, thing in things.items()
            if isinstance(thing, nn.Module | Optimizer) and not isinstance(thing, JointOptimizer)
        }

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers among them."""
        found = self.stateful().items()
        return {name: each for name, each in found if isinstance(each, Optimizer)}

    def forget(self) -> None:
        """Have all of them made anew."""
        self._made.clear()
