"""Manages received features at the Host: the leaves of its graph, and their gradients.

User code gets tensors that are not leaves, so that it may change them in place
(`ReLU(inplace=True)`, `add_`) as in a joined model. Large ones share the memory of the leaves. The
`.grad` of all of them is that of the leaves.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from heterofed.compute.tensors import SMALL, is_finite, takes_gradient


class _Lent(torch.autograd.Function):
    """Returns the same numbers as another node of the graph."""

    @staticmethod
    def forward(_context: Any, leaf: Tensor) -> Tensor:
        # Not a view of the leaf, because autograd refuses in-place changes of such views.
        return leaf.data

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Leaf:
    """One received tensor and its valid gradient, which is sent back.

    The valid gradient is the one that `.grad` holds at the end, as after a plain backward pass. If
    `zero_grad` cleared it after a step, it is the one that this step used. A gradient that was
    cleared without a step is not valid any more, as between the two passes of sharpness-aware
    minimisation.

    Args:
        tensor: a tensor of a dtype that can have gradients; it becomes a leaf that requires one.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.requires_grad_()
        # A copy of few numbers takes less time than a function in Python, forward and backward.
        self.lent: Tensor = tensor.clone() if tensor.numel() <= SMALL else _Lent.apply(tensor)
        self.fresh = False
        """Whether a backward pass reached this leaf since this was last set to False."""
        self._stepped = False
        self._kept: Tensor | None = None
        self._zeros: Tensor | None = None
        self._backward_left_it = (0, 0)
        self._hooks = [
            tensor.register_hook(self._take_changes),  # type: ignore[no-untyped-call]
            tensor.register_post_accumulate_grad_hook(self._show),  # type: ignore[no-untyped-call]
        ]

    def gradient(self) -> Tensor | None:
        """The valid gradient; None if the loss did not use the tensor."""
        now = self._shown()
        return self._kept if now is None or now is self._zeros else now

    def is_untouched(self) -> bool:
        """Return whether `.grad` is unchanged since the backward pass."""
        now = self._shown()
        return now is not None and (id(now), now._version) == self._backward_left_it

    def note_step(self) -> None:
        """Note that an optimizer has made a step."""
        self._stepped = True

    def clear(self, *, set_to_none: bool) -> None:
        """Clear `.grad`, as `Optimizer.zero_grad` does."""
        if self._stepped:
            self._kept, self._stepped = self.gradient(), False
        # A new tensor of zeros is needed, because the old tensor may be the valid gradient.
        now = None if set_to_none else self._shown()
        self._zeros = None if now is None else torch.zeros_like(now)
        self._put(self._zeros)

    def forget(self) -> None:
        """Discard all gradients, because the step was skipped."""
        self._kept = self._zeros = None
        self._put(None)

    def close(self) -> None:
        """Remove the hooks, which would keep this object and its memory alive."""
        for hook in self._hooks:
            hook.remove()

    def _take_changes(self, _gradient: Tensor) -> None:
        """Take over what user code made of `.grad`, because another backward pass adds to it."""
        # With `retain_grad`, torch has already stored this backward pass's gradient there.
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
        """Return what user code sees as `.grad`."""
        if not self._is_same_form():
            return self.tensor.grad
        # Torch warns about a missing `.grad` of a tensor that is no leaf.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.lent.grad

    def _is_same_form(self) -> bool:
        # If `squeeze_` or the like changed its shape, it cannot hold the gradient.
        return self.lent.shape == self.tensor.shape


class Leaves:
    """The features of one party in a batch at the Host.

    Args:
        tensors: the tensors as they were received, by name.
        trainable: whether gradients are sent back.
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
        """The tensors that user code gets."""

    def gradients(self) -> dict[str, Tensor]:
        """Return the valid gradients by name, without those of tensors that the loss did not
        use.
        """
        found = {name: leaf.gradient() for name, leaf in self.leaves.items()}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def close(self) -> None:
        """Release the tensors."""
        for leaf in self.leaves.values():
            leaf.close()


class EarlyGradients:
    """Passes on the gradients of one party's leaves as soon as the backward pass has all of them.

    The backward pass of the Host's own half is still running then. `changed` tells afterwards
    whether something (clipping, a second backward pass) has changed the gradients that were passed
    on.

    Noise or clipping after the backward pass would come too late to hide these gradients. So this
    class is used only at Hosts that declare that they do not change gradients.

    On a GPU, autograd has a thread of its own, where no message may be sent, and only submits its
    work. So the gradients are copied there, and `hand_on_copies` passes them on as soon as the
    copies are there, while the GPU still runs the rest of the backward pass and the step.

    Args:
        leaves: the party's features.
        hand_on: is called with the gradients by name, at most once, on the thread that made this
            object.
    """

    def __init__(self, leaves: Leaves, hand_on: Callable[[dict[str, Tensor]], None]) -> None:
        self._leaves = leaves
        self._hand_on = hand_on
        self._missing = len(leaves.leaves)
        self._handed: dict[str, Tensor] | None = None
        self._copies: dict[str, Tensor] | None = None
        self._copied: torch.cuda.Event | None = None
        self._thread = threading.get_ident()
        self._hooks = [
            leaf.tensor.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for leaf in leaves.leaves.values()
        ]

    @property
    def has_handed(self) -> bool:
        """Whether gradients were passed on."""
        return self._handed is not None

    def changed(self) -> bool:
        """Return whether the valid gradients differ from those that were passed on; remove the
        hooks.
        """
        for hook in self._hooks:
            hook.remove()
        now = self._leaves.gradients()
        if self._handed is None:
            return bool(now)
        # Values are compared, because neither identity nor version shows edits through
        # `.grad.data`.
        return now.keys() != self._handed.keys() or not all(
            torch.equal(gradient, self._handed[name]) for name, gradient in now.items()
        )

    def _accumulated(self, _leaf: Tensor) -> None:
        self._missing -= 1
        if self._missing != 0:
            return
        copies = {name: each.clone() for name, each in self._leaves.gradients().items()}
        if threading.get_ident() == self._thread:
            self._pass_on(copies)
        elif all(each.is_cuda for each in copies.values()):
            self._copies, self._copied = copies, torch.cuda.current_stream().record_event()

    def hand_on_copies(self) -> None:
        """Pass on gradients on a GPU, after waiting for them and for nothing later."""
        if self._copies is None or self._copied is None:
            return
        device = next(iter(self._copies.values())).device
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_event(self._copied)
        with torch.cuda.stream(beside):
            self._pass_on(self._copies)
        # Their memory must not be used again before the copies from it are done.
        torch.cuda.current_stream(device).wait_stream(beside)

    def _pass_on(self, gradients: dict[str, Tensor]) -> None:
        if all(is_finite(each) for each in gradients.values()):
            self._handed = gradients
            self._hand_on(gradients)
