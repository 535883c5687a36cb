"""Calls hooks, and checks their arguments before a run begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, TypeVar

from heterofed.errors import ConfigError, HeteroFedError
from heterofed.reporting.tracebacks import RAISED_IN
from heterofed.runs.run import Run

T = TypeVar("T")

HOOKS: dict[str, tuple[str, ...]] = {
    "end_final_look": (),
    "end_test": (),
    "extra_state": (),
    "feature_columns": (),
    "final_look": ("party", "number", "features"),
    "is_task_finished": (),
    "iterate_final_feature": ("feature_model", "final_ids"),
    "iterate_predict_feature": ("feature_model", "predict_ids"),
    "iterate_test_feature": ("feature_model", "test_ids"),
    "iterate_train_feature": ("feature_model", "train_ids"),
    "load_extra_state": ("state",),
    "load_features": ("ids",),
    "load_further_ids": ("common", "key"),
    "load_local_ids": (),
    "load_predict_ids": (),
    "make_feature_model": (),
    "make_feature_optimizer": ("feature_model",),
    "make_infer_model": (),
    "make_infer_optimizer": ("infer_model",),
    "on_round_end": (),
    "predict_a_batch": ("feature_projection",),
    "read_columns": ("columns",),
    "read_ids": ("ids",),
    "take_findings": ("values",),
    "split_dataset": ("id_intersection",),
    "split_places": ("ids",),
    "test": ("batched_feature_projections", "batched_labels"),
    "test_a_batch": ("feature_projection", "labels"),
    "train_a_batch": ("feature_projection", "labels"),
    "update_feature_model": ("features", "gradients"),
    "validate_context": (),
}
"""The arguments of each hook of split training, in order."""

GENERATORS = (
    "iterate_final_feature",
    "iterate_predict_feature",
    "iterate_test_feature",
    "iterate_train_feature",
    "load_further_ids",
    "load_local_ids",
    "load_predict_ids",
)
"""The hooks that may be generators."""

BY_NAME = ("test",)
"""Hooks that are called with these names, where they take them."""


class HookCalls:
    """The hooks of one user's object, as they are called within one run.

    Args:
        owner: the object with the hooks.
        run: the run within which they are called.
        name: the name of this party in logs.
    """

    def __init__(self, owner: object, run: Run, name: str) -> None:
        self._owner = owner
        self._run = run
        self._name = name

    def call(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        """Call a hook."""
        return self.call_as(hook, getattr(self._owner, hook), *args, **kwargs)

    def call_as(self, hook: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function in place of a hook, in the same way."""
        args, kwargs = arguments(call, args, kwargs)
        with self.inside(hook):
            return call(*args, **kwargs)

    def inside(self, hook: str) -> AbstractContextManager[None]:
        """Count user code as this party's work, and add the place as a note to errors that it
        raises.
        """
        return _Inside(self._run, hook, self._name)


class _Inside:
    """A block of user code; a class, because each batch enters several of them."""

    __slots__ = ("_around", "_hook", "_name", "_run", "_working")

    def __init__(self, run: Run, hook: str, name: str) -> None:
        self._run, self._hook, self._name = run, hook, name
        party = run.maybe_party
        self._working = party.computing() if party is not None else nullcontext()
        self._around = run.around_hooks()

    def __enter__(self) -> None:
        self._working.__enter__()
        try:
            self._around.__enter__()
        except BaseException as error:
            self._leave(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._around.__exit__(kind, error, trace)
        finally:
            self._leave(kind, error, trace)

    def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._working.__exit__(kind, error, trace)
        if isinstance(error, Exception) and not isinstance(error, HeteroFedError):
            self._run.failed_hook = self._hook
            error.add_note(f"{RAISED_IN}{self._hook} of {self._name}")


def check_hooks(owner: object, hooks: Mapping[str, tuple[str, ...]] = HOOKS) -> None:
    """Check that every hook of a scheduler can be called with its arguments.

    Args:
        owner: the scheduler.
        hooks: the arguments of each hook, in order.

    Raises:
        ConfigError: a hook cannot be called so. The message names the hook and its arguments.
    """
    for name, parameters in hooks.items():
        call = getattr(owner, name, None)
        if call is None:
            continue
        shown = f"{name}({', '.join(('self', *parameters))})"
        if not callable(call):
            raise ConfigError(f"{name} is a {type(call).__name__}, and a hook: define {shown}")
        if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
            raise ConfigError(f"{name} is async, and hooks are not awaited: define {shown} plainly")
        if inspect.isgeneratorfunction(call) and name not in GENERATORS:
            raise ConfigError(f"{name} yields, so that calling it does nothing: let it return")
        by_name = name in BY_NAME and takes(call, **dict.fromkeys(parameters))
        if not by_name and not takes(call, *parameters):
            raise ConfigError(f"{name} cannot be called as a hook: define {shown}")


def takes(call: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Return whether an object can be called with these arguments, according to its signature."""
    try:
        inspect.signature(call).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def arguments(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments by name if the hook takes them so, or else by their order."""
    if kwargs and not takes(call, *args, **kwargs):
        return (*args, *kwargs.values()), {}
    return args, dict(kwargs)
