"""Defines an optimizer with AdamW for dense weights and SparseAdam for tables of which steps use
few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam


class SparseAdamW(Optimizer):
    """One optimizer for both kinds of weights; its groups and state are those of its two parts.

    Args:
        dense: the weights with dense gradients, which decay.
        sparse: the weights with sparse gradients, which do not decay, because decay would change
            all of them.
        lr: the learning rate.
        weight_decay: the same as in AdamW.
    """

    def __init__(
        self, dense: Iterable[Tensor], sparse: Iterable[Tensor], *, lr: float, weight_decay: float
    ) -> None:
        adam = _adamw(dense, lr=lr, weight_decay=weight_decay)
        few = SparseAdam(list(sparse), lr=lr)
        super().__init__([*adam.param_groups, *few.param_groups], {})
        _PARTS[self] = (adam, few)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of both parts."""
        loss = None if closure is None else closure()
        for group, part in zip(self.param_groups, _PARTS[self], strict=True):
            # A loaded state_dict replaces the groups and the state by new objects.
            part.param_groups, part.state = [group], self.state
            part.step()
        return loss


_PARTS: WeakKeyDictionary[Optimizer, tuple[Optimizer, ...]] = WeakKeyDictionary()
"""The two parts of each optimizer, which have no state of their own. They are not attributes of it,
because a checkpoint keeps the state of everything that an optimizer holds.
"""


def warm_up() -> None:
    """Make an optimizer and drop it, so that no other party waits while PyTorch loads modules.

    This takes seconds for the first optimizer of a process.
    """
    AdamW(nn.Linear(1, 1).parameters())


def _adamw(weights: Iterable[Tensor], *, lr: float, weight_decay: float) -> AdamW:
    """Return AdamW that steps in one call of torch, which takes a third of the time of a call for
    each weight of a small model.
    """
    return AdamW(list(weights), lr=lr, weight_decay=weight_decay, fused=True)


def make_optimizer(model: nn.Module, *, lr: float, weight_decay: float) -> Optimizer:
    """Return the optimizer of a half, or of the model on top."""
    sparse = {
        id(each.weight)
        for each in model.modules()
        if isinstance(each, nn.Embedding | nn.EmbeddingBag) and each.sparse
    }
    weights = list(model.parameters())
    few = [each for each in weights if id(each) in sparse]
    dense = [each for each in weights if id(each) not in sparse]
    if not few:
        return _adamw(dense, lr=lr, weight_decay=weight_decay)
    return SparseAdamW(dense, few, lr=lr, weight_decay=weight_decay)
