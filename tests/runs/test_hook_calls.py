"""Hooks that cannot be called as they will be are refused before anything begins."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest

from heterofed import ConfigError, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler, simulate
from heterofed.runs.hook_calls import BY_NAME, GENERATORS, HOOKS, check_hooks
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")

ROLES = (HeteroNNHostScheduler, HeteroNNCollaboratorScheduler)


def test_the_table_is_that_of_the_hooks() -> None:
    found: dict[str, tuple[str, ...]] = {}
    for role in ROLES:
        for name, call in inspect.getmembers(role, inspect.isfunction):
            if (inspect.getdoc(call) or "").startswith("Hook"):
                found[name] = tuple(inspect.signature(call).parameters)[1:]
    assert found == HOOKS


def every() -> list[tuple[type, str]]:
    return [
        (role, name)
        for role in (TinyHost, TinyCollaborator)
        for name in HOOKS
        if hasattr(role, name)
    ]


@pytest.mark.parametrize(("role", "name"), every())
def test_every_hook_is_checked(role: Any, name: str, tmp_path: Path) -> None:
    count = len(HOOKS[name])
    party = role(tmp_path)

    def checked(define: Any) -> None:
        setattr(party, name, define)
        check_hooks(party)

    checked(eval(f"lambda {', '.join('abc'[:count])}: None"))
    checked(lambda *_: None)
    checked(lambda *_, more=3: more)
    checked(functools.partial(lambda *_: None))
    with pytest.raises(ConfigError, match=rf"{name} cannot be called .* define {name}\(self"):
        checked(lambda a, b, c, d: None)
    if count:
        with pytest.raises(ConfigError, match=f"{name} cannot be called"):
            checked(lambda: None)
    with pytest.raises(ConfigError, match=f"{name} is a int, and a hook"):
        checked(3)

    async def waits(*_: Any) -> None: ...

    with pytest.raises(ConfigError, match=f"{name} is async"):
        checked(waits)

    def yields(*_: Any) -> Any:
        yield 1

    if name in GENERATORS:
        checked(yields)
    else:
        with pytest.raises(ConfigError, match=f"{name} yields"):
            checked(yields)
    assert BY_NAME == ("test",)


@pytest.mark.slow
def test_test_may_call_its_arguments_what_it_likes(tmp_path: Path) -> None:
    seen: list[tuple[Any, Any]] = []

    class Positional(TinyHost):
        def test(self, ps: Any, ls: Any) -> None:
            seen.append((ps, ls))

    class Swapped(TinyHost):
        def test(  # type: ignore[override]
            self, *, batched_labels: Any, batched_feature_projections: Any
        ) -> None:
            seen.append((batched_feature_projections, batched_labels))

    for role in (Positional, Swapped):
        simulate(role(tmp_path, max_rounds=1), [TinyCollaborator(tmp_path)], task_id="names")
        projections, labels = seen.pop()
        assert isinstance(projections[0], dict)
        assert len(projections) == len(labels)
        simulate(role(tmp_path), [TinyCollaborator(tmp_path)], task_id="dry", rehearse=True)
        assert isinstance(seen.pop()[0][0], dict)


def test_a_hook_is_refused_before_anybody_is_waited_for(tmp_path: Path) -> None:
    class Host(TinyHost):
        def train_a_batch(self, feature_projection: Any) -> None:  # type: ignore[override]
            pass

    (outcome,) = run(Host(tmp_path))
    assert type(outcome) is ConfigError
    assert "train_a_batch(self, feature_projection, labels)" in str(outcome)
    assert list(tmp_path.iterdir()) == []
