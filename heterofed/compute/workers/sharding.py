"""Divides the weights of a model among the processes of a party, for the length of a launch.

This loads what it needs only then, because that takes a second. State that leaves a model or an
optimizer as a `state_dict`, or comes back, is whole: files and checkpoints are those of one
process.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.compute.sharded_tensors import is_sharded, placed, whole
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.sharded import spread
from heterofed.errors import ConfigError


@contextmanager
def sharding(exchange: Exchange | None, *, wanted: bool) -> Iterator[None]:
    """Let this thread use sharded tensors within the block.

    Args:
        exchange: the connections to the other ranks; None if there are none.
        wanted: whether a model is to be divided.

    Raises:
        ConfigError: there are no other ranks.
    """
    if not wanted:
        yield
        return
    if exchange is None:
        raise ConfigError(
            "shard_feature_model needs several processes: give feature_workers, or start the script"
            " by torchrun; a run that was trained with it resumes without, too"
        )
    from heterofed.compute.workers.mirror import Mirror

    with Mirror(exchange):
        yield


def divide(model: nn.Module, exchange: Exchange) -> None:
    """Divide the weights of a model, and let all ranks compute it.

    Raises:
        ConfigError: they cannot be divided, or the model cannot be sent.
    """
    from heterofed.compute.workers.lockstep import LockstepForward

    spread(model, exchange, LockstepForward)
    # A method has no attributes, and torch gives the hook one.
    hooked: Any = model
    hooked.register_state_dict_post_hook(_all_whole)


def keep_whole(optimizer: Optimizer) -> None:
    """Make the state whole that leaves an optimizer of sharded weights, and divide what it gets."""
    for each in optimizer if isinstance(optimizer, JointOptimizer) else [optimizer]:
        each.register_state_dict_post_hook(_whole_state)
        each.register_load_state_dict_post_hook(_divide_state)


def _all_whole(
    _model: nn.Module, state: MutableMapping[str, Any], _prefix: str, _metadata: Any
) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor):
            state[key] = whole(value)


def _whole_state(_optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return state | {
        "state": {
            number: {key: whole(v) if isinstance(v, Tensor) else v for key, v in each.items()}
            for number, each in state["state"].items()
        }
    }


def _divide_state(optimizer: Optimizer) -> None:
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if is_sharded(weight) and isinstance(value, Tensor) and value.dim():
                state[key] = placed(value, weight)
