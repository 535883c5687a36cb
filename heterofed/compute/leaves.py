"""Received features at the Host: leaves of its graph, and the gradients that go back. Knows torch.

User code gets tensors over the same memory that are no leaves, so that it may change them in place
(`ReLU(inplace=True)`, `add_`), as it could in a joined model. Their `.grad` is that of the leaves.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from heterofed.compute.tensors import is_finite, takes_gradient


class _Lent(torch.autograd.Function):
    """The same numbers as another node of the graph."""

    @staticmethod
    def forward(_context: Any, leaf: Tensor) -> Tensor:
        return leaf.data  # not a view of the leaf: autograd refuses in-place changes of those

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Leaf:
    """One received tensor, and the gradient of it that counts.

    That is the one that `.grad` holds in the end, as after a plain backward. Where it was cleared
    by `zero_grad`, it is the one that a step was made with before; what was cleared without a step,
    as between the two passes of sharpness-aware minimisation, counts no more.

    Args:
        tensor: of a dtype that takes gradients; becomes a leaf that requires one.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.requires_grad_()
        self.lent: Tensor = _Lent.apply(tensor)
        self.fresh = False
        """Whether a backward has come here since this was last set to False."""
        self._stepped = False
        self._kept: Tensor | None = None
        self._zeros: Tensor | None = None
        self._backward_left_it = (0, 0)
        self._hooks = [
            tensor.register_hook(self._take_changes),  # type: ignore[no-untyped-call]
            tensor.register_post_accumulate_grad_hook(self._show),  # type: ignore[no-untyped-call]
        ]

    def gradient(self) -> Tensor | None:
        """The gradient that counts now; None where the loss did not use the tensor."""
        now = self._shown()
        return self._kept if now is None or now is self._zeros else now

    def is_untouched(self) -> bool:
        """Whether `.grad` is as backward left it."""
        now = self._shown()
        return now is not None and (id(now), now._version) == self._backward_left_it

    def note_step(self) -> None:
        """An optimizer has made a step."""
        self._stepped = True

    def clear(self, *, set_to_none: bool) -> None:
        """Clear `.grad`, as `Optimizer.zero_grad` does."""
        now = self._shown()
        if self._stepped:
            self._kept, self._stepped = self.gradient(), False
        # Other zeros, not the same tensor with zeros in it: what counts may be that tensor.
        self._zeros = None if set_to_none or now is None else torch.zeros_like(now)
        self._put(self._zeros)

    def forget(self) -> None:
        """Let no gradient count: the step was left out."""
        self._kept = self._zeros = None
        self._put(None)

    def close(self) -> None:
        """Watch it no longer; the hooks hold this object, and so the memory."""
        for hook in self._hooks:
            hook.remove()

    def _take_changes(self, _gradient: Tensor) -> None:
        """What user code has made of `.grad` is what another backward adds to."""
        # With `retain_grad`, torch itself has put this backward's gradient there already.
        if self.tensor.grad is not None and not self.lent.retains_grad:
            self.tensor.grad = self._shown()

    def _show(self, leaf: Tensor) -> None:
        self.fresh, self._zeros = True, None
        if leaf.grad is not None:
            self._put(leaf.grad)
            self._backward_left_it = (id(leaf.grad), leaf.grad._version)

    def _put(self, gradient: Tensor | None) -> None:
        self.tensor.grad = gradient
        if self._is_same_form():
            self.lent.grad = gradient

    def _shown(self) -> Tensor | None:
        """What user code sees as `.grad`."""
        if not self._is_same_form():
            return self.tensor.grad
        with warnings.catch_warnings():  # torch warns where a tensor that is no leaf has none
            warnings.simplefilter("ignore")
            return self.lent.grad

    def _is_same_form(self) -> bool:
        # Where `squeeze_` or the like has changed its shape it cannot hold the gradient.
        return self.lent.shape == self.tensor.shape


class Leaves:
    """One party's features of a batch at the Host.

    Args:
        tensors: as they were received.
        trainable: whether gradients travel back.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, trainable: bool) -> None:
        self.leaves = {
            name: Leaf(tensor)
            for name, tensor in tensors.items()
            if trainable and takes_gradient(tensor)
        }
        self.lent = {
            name: self.leaves[name].lent if name in self.leaves else tensor
            for name, tensor in tensors.items()
        }
        """What user code gets."""

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that count now; without those that the loss did not use."""
        found = {name: leaf.gradient() for name, leaf in self.leaves.items()}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def close(self) -> None:
        """Let nothing hold the tensors any longer."""
        for leaf in self.leaves.values():
            leaf.close()


class EarlyGradients:
    """Gradients of one party's leaves, handed on the moment backward has all of them.

    The Host's own half is still in backward then. `changed` tells afterwards whether something
    (clipping, a second backward) has made them others than those that were handed on.

    What is handed on early is what backward gave: noise or clipping after it comes too late to hide
    that. So this is for Hosts that say they change nothing.

    Args:
        leaves: the party's features.
        hand_on: gets the gradients by name; called at most once, on the thread that made this.
    """

    def __init__(self, leaves: Leaves, hand_on: Callable[[dict[str, Tensor]], None]) -> None:
        self._leaves = leaves
        self._hand_on = hand_on
        self._missing = len(leaves.leaves)
        self._handed: dict[str, Tensor] | None = None
        self._thread = threading.get_ident()
        self._hooks = [
            leaf.tensor.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for leaf in leaves.leaves.values()
        ]

    def changed(self) -> bool:
        """Whether other gradients count now than those handed on; ends the watch."""
        for hook in self._hooks:
            hook.remove()
        now = self._leaves.gradients()
        if self._handed is None:
            return bool(now)
        # By value: neither identity nor version tells of edits through `.grad.data`.
        return now.keys() != self._handed.keys() or not all(
            torch.equal(gradient, self._handed[name]) for name, gradient in now.items()
        )

    def _accumulated(self, _leaf: Tensor) -> None:
        self._missing -= 1
        # Backward of CUDA graphs runs on a thread of its own, where nothing of ours may be sent.
        if self._missing != 0 or threading.get_ident() != self._thread:
            return
        gradients = self._leaves.gradients()
        if all(is_finite(each) for each in gradients.values()):
            self._handed = {name: each.clone() for name, each in gradients.items()}
            self._hand_on(self._handed)
