"""The split training step: leaves, gradients, modes, random streams. Knows torch; no sockets.

Peers' features are leaves of the Host's graph that require grad; the Host's own stay attached to
theirs. What their `.grad` holds when `train_a_batch` returns is what travels back.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.alignment import stream_seed
from heterofed.errors import ConfigError, FeatureError, LocalProtocolError
from heterofed.tensors import Features, Layout, is_finite, named, takes_gradient

T = TypeVar("T")

_THREADS_AT_IMPORT = torch.get_num_threads()

_MT19937_BYTES = 5056
"""Of a state as torch lays it out: the seed and counters in 24, then 624 words of 8 each."""

_SEEDED = torch.Generator().manual_seed(0).get_state()

_GENERATORS = threading.RLock()
"""Held while a stream runs: parties that share a process share its global generators too."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What `iterate_train_feature` and `iterate_test_feature` may yield.

    Attributes:
        features: tensor, tuple or dict of tensors, first dimension = rows; None at a label-only
            Host.
        labels: the Host's labels of the same rows, in any form that `train_a_batch` takes.
        ids: ids of the rows, as loaded from the data beside them (not copied from what the hook was
            given): proof that all parties' rows are in the same order.
    """

    features: Features | None
    labels: Any = None
    ids: Sequence[str] | None = None


@contextmanager
def random_stream(seed: int, *path: str | int) -> Iterator[None]:
    """Run a block on the random numbers of one stream of the task, and restore what was before.

    Every entry into user code runs under a stream named (feature key, hook, round, batch), so a
    split run draws the same dropout masks as a joined model that uses the same streams, whatever
    happens in between and in whichever process. Covers the global generators of torch (CPU and
    CUDA), NumPy and Python.

    Args:
        seed: the plan's seed.
        path: names of the stream.
    """
    start = stream_seed(seed, *path)
    with _GENERATORS:
        yield from _seeded(start)


class _Depth(threading.local):
    """How many streams this thread is in, and whether `generators_kept` is around them."""

    streams = 0
    kept = False


_depth = _Depth()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators at the end of the block, so that not each stream in it has to: that
    takes longer than everything else that heterofed does for a batch.
    """
    with _GENERATORS:
        before = RandomState.now()
    _depth.kept = True
    try:
        yield
    finally:
        _depth.kept = False
        with _GENERATORS:
            before.restore()


def _seeded(start: int) -> Iterator[None]:
    before = None if _depth.kept and _depth.streams == 0 else RandomState.now()
    _depth.streams += 1
    try:
        # Not torch.manual_seed: before CUDA is initialised it queues a call for later, each time.
        torch.default_generator.set_state(_whole_state(start))
        if _cuda_devices():
            torch.cuda.manual_seed_all(start)
        random.seed(start)
        np.random.seed([start & 0xFFFF_FFFF, start >> 32])
        yield
    finally:
        _depth.streams -= 1
        if before is not None:
            before.restore()


def _whole_state(start: int) -> Tensor:
    """The state of torch's CPU generator for a seed, all of whose bits count.

    Its own `manual_seed` takes the lower 32 alone, few enough to try all: then features would tell
    the initial weights, and those the raw rows.
    """
    if _SEEDED.numel() != _MT19937_BYTES:  # another torch than we know: better few bits than none
        return torch.Generator().manual_seed(start).get_state()
    state = _SEEDED.clone()
    raw = state.numpy()
    raw[:8].view(np.uint64)[0] = start
    words = np.frombuffer(hashlib.shake_256(start.to_bytes(8, "big")).digest(4 * 624), "<u4")
    raw[24 : 24 + 8 * 624].view(np.uint64)[:] = words
    return state


@dataclass(frozen=True, slots=True)
class RandomState:
    """Where this process's global generators stand: torch (CPU and CUDA), NumPy, Python."""

    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """As they stand."""
        cuda = tuple(torch.cuda.get_rng_state(device) for device in _cuda_devices())
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Put them back; devices that have come into use since stay as they are."""
        torch.set_rng_state(self.torch_cpu)
        for device, state in enumerate(self.torch_cuda):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)


def _cuda_devices() -> list[int]:
    # Before CUDA is initialised there is no state to keep, and asking would initialise it.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return list(range(torch.cuda.device_count()))


def streamed(
    items: Iterable[T], seed: int, *path: str | int, grad: bool = True, first: int = 0
) -> Generator[T, None, None]:
    """Iterate user code, each step under the stream (path, batch number), from batch `first` on."""
    iterator = iter(items)
    batch = first
    while True:
        with random_stream(seed, *path, batch), torch.set_grad_enabled(grad):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        del item  # before the next one is made
        batch += 1


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into eval mode, without gradients, and restore each submodule's mode after."""
    modes = [(sub, sub.training) for module in modules if module for sub in module.modules()]
    for module in modules:
        if module is not None:
            module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for sub, was_training in modes:
            sub.training = was_training


@contextmanager
def sharing_cores(parties: int) -> Iterator[None]:
    """Let torch use this machine's cores divided by the parties that run on it, and restore it.

    Parties with a thread per core each spend most of their time in each other's way. What the
    user has set (`OMP_NUM_THREADS`, `torch.set_num_threads`) stays as it is.
    """
    before = torch.get_num_threads()
    chosen = before != _THREADS_AT_IMPORT or before * 2 < (os.cpu_count() or 1)
    if chosen or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    torch.set_num_threads(max(1, before // parties))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OptimizerGroup:
    """Several optimizers as one: `zero_grad` and `step` go to each of them.

    `self.optimizer` of the Host: covers the infer model and the Host's own feature model.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every parameter."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One step of each optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()


def as_batch(item: object, where: str, *, with_labels: bool | None) -> Batch:
    """Read what a feature hook yielded.

    Args:
        item: what it yielded.
        where: names it.
        with_labels: whether there must be labels; None: there may be, and features need not.

    Raises:
        FeatureError: it is not of the form that the hook's contract gives.
    """
    if isinstance(item, Batch):
        batch = item
    elif with_labels is not False:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise FeatureError(
                f"{where} must yield (features, labels) or Batch(features, labels), not a"
                f" {type(item).__name__}"
            )
        batch = Batch(item[0], item[1])
    else:
        batch = Batch(item)  # type: ignore[arg-type]
    if with_labels and batch.labels is None:
        raise FeatureError(f"{where} yielded no labels; the Host must yield them")
    if with_labels is False and batch.features is None:
        raise FeatureError(f"{where} yielded no features: yield what feature_model returns")
    return batch


def rows_of(batch: Batch, where: str) -> int:
    """Rows of a batch: of its features, else of its labels.

    Raises:
        FeatureError: they have no rows, or features and labels differ in them.
    """
    rows: int | None = None
    if batch.features is not None:
        rows = len(next(iter(named(batch.features, where)[1].values())))
    labels = _rows_of_labels(batch.labels)
    if rows is None and labels:
        rows = labels[0]
    elif labels and rows not in labels:
        raise FeatureError(f"{where} yielded {rows} rows of features and {labels[0]} labels")
    if rows is None:
        raise FeatureError(f"{where}: the labels of a label-only Host must have a length")
    return rows


def _rows_of_labels(labels: Any) -> list[int]:
    """How many rows labels may be of, the likeliest first; empty where they do not tell.

    Several kinds of labels come as a dict, tuple or list of arrays; a list may also be of rows.
    """
    if getattr(labels, "ndim", None) == 0 or not hasattr(labels, "__len__"):
        return []
    parts = list(labels.values()) if isinstance(labels, Mapping) else labels
    if not isinstance(parts, list | tuple):
        return [len(parts)]
    counts = [len(parts)] if not isinstance(labels, Mapping) else []
    if parts and all(getattr(each, "ndim", 0) for each in parts):
        counts = [len(parts[0]), *counts]
    return counts


def as_leaves(tensors: Mapping[str, Tensor], *, trainable: bool) -> dict[str, Tensor]:
    """Make received features leaves of the graph; floating ones collect gradients."""
    for tensor in tensors.values():
        tensor.requires_grad_(trainable and takes_gradient(tensor))
    return dict(tensors)


class EarlyGradients:
    """Gradients of one party's leaves, handed on the moment backward has all of them.

    The Host's own half is still in backward then. `changed` tells afterwards whether something
    (clipping, a second backward) has made them others than those that were handed on.

    What is handed on early is what backward gave: noise or clipping after it comes too late to hide
    that. So this is for Hosts that say they change nothing.

    Args:
        leaves: the party's features, as `as_leaves` made them.
        hand_on: gets the gradients by name; called at most once, on the thread that made this.
    """

    def __init__(
        self, leaves: Mapping[str, Tensor], hand_on: Callable[[dict[str, Tensor]], None]
    ) -> None:
        self._leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        self._hand_on = hand_on
        self._missing = len(self._leaves)
        self._handed: dict[str, Tensor] | None = None
        self._thread = threading.get_ident()
        self._hooks = [
            leaf.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for leaf in self._leaves.values()
        ]

    def changed(self) -> bool:
        """Whether the leaves hold other gradients now than those handed on; ends the watch."""
        for hook in self._hooks:
            hook.remove()
        now = gradients_of(self._leaves)
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
        gradients = gradients_of(self._leaves)
        if all(is_finite(each) for each in gradients.values()):
            self._handed = {name: each.clone() for name, each in gradients.items()}
            self._hand_on(self._handed)


def gradients_of(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients that leaves hold now; without those that the loss did not use."""
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def backward(
    features: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, retain: bool = False
) -> None:
    """Run backward through a feature model from the gradients at the cut layer.

    Args:
        features: as the feature model gave them.
        gradients: by the same names, on any device.
        retain: keep the graph, for another backward with other gradients.
    """
    pairs = [
        (features[name], gradient.to(features[name].device))
        for name, gradient in gradients.items()
        if features[name].requires_grad
    ]
    if pairs:
        tensors, grads = zip(*pairs, strict=True)
        torch.autograd.backward(tensors, grads, retain_graph=retain)


def gradients_like(
    layout: Layout, features: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> Any:
    """Arrange gradients as the hook had arranged its features; None where there is none."""
    placed = {
        name: gradients[name].to(feature.device) if name in gradients else None
        for name, feature in features.items()
    }
    if layout == "tensor":
        return next(iter(placed.values()))
    return tuple(placed.values()) if layout == "tuple" else placed


def device_of(own: Mapping[str, Tensor], model: nn.Module | None) -> torch.device | None:
    """Where peers' features should live: with the Host's own, else with its infer model."""
    for tensor in own.values():
        return tensor.device
    parameter = next(model.parameters(), None) if model is not None else None
    return parameter.device if parameter is not None else None


def check_model(model: object, hook: str) -> nn.Module | None:
    """Check what a model hook returned.

    Raises:
        ConfigError: neither a Module nor None.
    """
    if model is None or isinstance(model, nn.Module):
        return model
    raise ConfigError(f"{hook} must return a torch.nn.Module or None, not {type(model).__name__}")


def check_optimizer(optimizer: object, hook: str) -> Optimizer | None:
    """Check what an optimizer hook returned.

    Raises:
        ConfigError: neither an Optimizer nor None.
    """
    if optimizer is None or isinstance(optimizer, Optimizer):
        return optimizer
    raise ConfigError(
        f"{hook} must return a torch.optim.Optimizer or None, not {type(optimizer).__name__}"
    )


class Lazy:
    """Makes a value once, when it is first asked for; refuses to be asked while making it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made = False
        self._making = False
        self._value: Any = None

    def __call__(self) -> Any:
        """The value."""
        if not self._made:
            if self._making:
                raise LocalProtocolError("a hook that makes a model or optimizer asked for itself")
            self._making = True
            try:
                self._value = self._make()
            finally:
                self._making = False
            self._made = True
        return self._value
