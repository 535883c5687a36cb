"""Joins several optimizers to one that behaves like the optimizer of a joined model."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from heterofed.compute.leaves import Leaf, Leaves
from heterofed.errors import ConfigError


class JointOptimizer(Optimizer):
    """Several optimizers as one `torch.optim.Optimizer`.

    The Host's `self.optimizer` covers the infer model, the Host's own feature model, and the
    gradients that go to the other parties. `zero_grad` clears those gradients too, so that it has
    the same effect between two passes over one batch as in a joined model. Parameter groups and
    state are those of the parts. Learning-rate schedules and `torch.amp.GradScaler` accept it like
    any other optimizer.

    Iteration yields the parts.

    Args:
        optimizers: the parts, possibly none.
    """

    # `GradScaler` then leaves it to `step` to unscale and to skip a step, because it does not know
    # the leaves.
    _step_supports_amp_scaling = True

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers: tuple[Optimizer, ...] = ()
        # For the hooks of the base class; groups and state are those of the parts.
        super().__init__([{"params": []}], {})
        self.optimizers = tuple(
            part
            for each in optimizers
            for part in (each if isinstance(each, JointOptimizer) else [each])
        )
        self.defaults = {k: v for each in self.optimizers[::-1] for k, v in each.defaults.items()}
        self._leaves: list[Leaf] = []
        self._cleared: set[int] = set()
        for part, optimizer in enumerate(self.optimizers):
            _after_zero_grad(optimizer, functools.partial(self._part_cleared, part))

    def __iter__(self) -> Iterator[Optimizer]:
        return iter(self.optimizers)

    def __getitem__(self, part: int) -> Optimizer:
        return self.optimizers[part]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.optimizers,)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every parameter, and those of received features."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)
        for leaf in self._leaves:
            leaf.clear(set_to_none=set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of each part.

        Args:
            closure: computes the loss and its gradients again, which `torch.optim.LBFGS` needs. It
                is passed to the parts that require it; if there are none, it is called once.

        Returns:
            The result of the closure.

        Raises:
            ConfigError: `GradScaler.unscale_` was called with this optimizer, and the gradients
                that go to other parties are still scaled.
        """
        if not self._is_unscaled():
            return None
        loss = None
        needing = [closure is not None and _needs_closure(each) for each in self.optimizers]
        if closure is not None and not any(needing):
            with torch.enable_grad():
                loss = closure()
        for optimizer, needs in zip(self.optimizers, needing, strict=True):
            outcome: Any = optimizer.step(closure) if needs and closure else optimizer.step()
            loss = outcome if loss is None else loss
        return loss

    def unscale_(self, scaler: torch.amp.GradScaler) -> None:
        """Unscale all gradients before the step, as `scaler.unscale_` does for any optimizer.

        Args:
            scaler: the scaler that scaled the loss.
        """
        scaler.unscale_(self)
        self._scale_leaves(_inverse(torch.tensor(scaler.get_scale())))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the first part."""
        if self.optimizers:
            self.optimizers[0].add_param_group(param_group)
        elif param_group["params"]:
            raise ValueError("there is no optimizer that could take a parameter group")

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, as the same objects, because a schedule changes them in
        place.
        """
        return [group for each in self.optimizers for group in each.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if groups:
            raise AttributeError("change the groups in place, or those of the parts")

    @property  # type: ignore[override]
    def state(self) -> MutableMapping[Any, Any]:
        """The state of all parts, by parameter."""
        return _JointState(self.optimizers)

    @state.setter
    def state(self, state: MutableMapping[Any, Any]) -> None:
        for each in self.optimizers:
            each.state = defaultdict(dict)
        _JointState(self.optimizers).update(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Distribute the state that `load_state_dict` has read and checked to the parts."""
        groups = iter(state["param_groups"])
        for each in self.optimizers:
            own = [next(groups) for _ in each.param_groups]
            places = {p: i for i, p in enumerate(p for group in own for p in group["params"])}
            each.load_state_dict(
                {
                    "state": {places[p]: v for p, v in state["state"].items() if p in places},
                    "param_groups": [
                        group | {"params": [places[p] for p in group["params"]]} for group in own
                    ],
                }
            )

    # -- the gradients that go to other parties --------------------------------------------

    @contextmanager
    def covering(self, received: Sequence[Leaves]) -> Iterator[None]:
        """Make this optimizer cover the received features of one batch within the block."""
        thread = threading.get_ident()

        def note_step(*_: object) -> None:  # called by any part, also by one that wraps another
            for leaf in self._leaves if threading.get_ident() == thread else ():
                leaf.note_step()

        self._leaves = [leaf for each in received for leaf in each.leaves.values()]
        self._cleared.clear()
        watch = register_optimizer_step_post_hook(note_step)
        try:
            yield
        finally:
            watch.remove()
            self._leaves = []
            for each in received:
                each.close()

    def _part_cleared(self, part: int, set_to_none: bool) -> None:
        """Clear the leaves too if every part was cleared since the last backward pass."""
        if any(leaf.fresh for leaf in self._leaves):
            self._cleared.clear()
        for leaf in self._leaves:
            leaf.fresh = False
        self._cleared.add(part)
        if len(self._cleared) == len(self.optimizers):
            for leaf in self._leaves:
                leaf.clear(set_to_none=set_to_none)

    def _is_unscaled(self) -> bool:
        """Unscale what a `GradScaler` left scaled, and return whether to make a step."""
        found = getattr(self, "found_inf", None)
        if found is None:  # no scaler
            return True
        if _any([found, *_overflows(self._leaves, found.device)]):
            for leaf in self._leaves:
                leaf.forget()
            return False
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            self._scale_leaves(_inverse(scale))
            parameters = (each for group in self.param_groups for each in group["params"])
            _scale([each.grad for each in parameters], _inverse(scale))
        elif any(leaf.is_untouched() for leaf in self._leaves):
            raise ConfigError(
                "scaler.unscale_(self.optimizer) leaves the gradients that go to other parties"
                " scaled: call self.optimizer.unscale_(scaler) instead"
            )
        return True

    def _scale_leaves(self, factor: Tensor) -> None:
        _scale([leaf.gradient() for leaf in self._leaves], factor)


class _JointState(MutableMapping[Any, Any]):
    """The joint state of several optimizers by parameter; each entry is stored in its optimizer."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def __getitem__(self, key: Any) -> Any:
        return self._home(key)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._home(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._home(key)[key]

    def __contains__(self, key: object) -> bool:  # reading a missing entry would create it
        return any(key in each.state for each in self._optimizers)

    def __iter__(self) -> Iterator[Any]:
        return (key for each in self._optimizers for key in each.state)

    def __len__(self) -> int:
        return sum(len(each.state) for each in self._optimizers)

    def _home(self, key: Any) -> Any:
        for each in self._optimizers:
            if key in each.state or any(key is p for g in each.param_groups for p in g["params"]):
                return each.state
        if not self._optimizers:
            raise KeyError(key)
        return self._optimizers[0].state


def _after_zero_grad(optimizer: Optimizer, call: Callable[[bool], None]) -> None:
    """Make an optimizer call a function after each `zero_grad`; torch has hooks for `step` only."""
    plain = optimizer.zero_grad

    @functools.wraps(plain)
    def zero_grad(*args: Any, **kwargs: Any) -> None:
        plain(*args, **kwargs)
        call(args[0] if args else kwargs.get("set_to_none", True))

    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]


def _needs_closure(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's `step` requires a closure."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _overflows(leaves: Iterable[Leaf], device: torch.device) -> Iterator[Tensor]:
    """Yield for each gradient of a leaf whether it is not finite, as a tensor on the device."""
    for leaf in leaves:
        if (gradient := leaf.gradient()) is not None:
            yield torch.isfinite(gradient).all().logical_not().to(device)


def _any(flags: Sequence[Tensor]) -> bool:
    """Return whether any of the flags is set, with one wait for all of them."""
    return bool(torch.stack([each.reshape(()).bool() for each in flags]).any())


def _inverse(scale: Tensor) -> Tensor:
    """Return the factor by which a `GradScaler` of this scale multiplies gradients, bit for bit."""
    return scale.double().reciprocal().float()


def _scale(gradients: Iterable[Tensor | None], factor: Tensor) -> None:
    with torch.no_grad():
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(factor.to(gradient.device))
