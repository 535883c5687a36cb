"""Loads one version of a party's half, ready to serve, perhaps beside others in one session."""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from heterofed.compute.own_ids import checked
from heterofed.compute.packed_ids import PackedIds
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import PartyHooks, loads_features
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.predict.models import load_models
from heterofed.hetero_nn.serve.agreed_table import half_digest
from heterofed.hetero_nn.serve.own_features import OwnFeatures
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.artifacts import Trained
from heterofed.runs.extra_modules import EXTRA, modules_beside
from heterofed.runs.run import Run
from heterofed.runs.scheduler import engine_of
from heterofed.runs.state import RunState

M = TypeVar("M", bound=HalfModels)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """One version of a party's half.

    Attributes:
        half: the half with its weights, in eval mode. It has a run of its own.
        trained: the finished run of its weights.
        ids: the ids of this party's table, sorted.
    """

    half: Half[M]
    trained: Trained
    ids: PackedIds

    def digest(self, *more: str) -> bytes:
        """Return the digest of the half, over its files and further ones."""
        return half_digest(self.trained, [*self.half.models.saved, *more, EXTRA])

    def join(self, run: Run, *, releases: bool) -> None:
        """Take part in a session that has begun; `releases` says whether rows leave here."""
        mine = self.half.run
        mine.maybe_party, mine.maybe_agreement = run.maybe_party, run.maybe_agreement
        mine.ledger, mine.simulated, mine.record = run.ledger, run.simulated, run.record
        mine.terms, mine.secured = run.terms, run.secured
        if releases:
            mine.releases = run.opened_ledger()

    def warm(self) -> None:
        """Read a row, so that the first request does not wait until a table is prepared."""
        if loads_features(type(self.half.owner)) and self.ids:
            with self.half.evaluating():
                OwnFeatures(self.half).of(self.ids[:1])


def load(
    owner: PartyHooks, run: Run, trained: Trained, models: type[M], *, anew: bool = False
) -> Loaded[M]:
    """Load the models of a finished run and the ids, with the hooks of a scheduler.

    Args:
        owner: the scheduler. No other version that is in use may have it.
        run: the run of the session.
        trained: the finished run.
        models: the class of the half's models.
        anew: whether the scheduler is a new one, whose context was not validated yet.

    Raises:
        ConfigError: the models or the ids cannot be used.
    """
    result = TaskResult(run.task_id, run.result.party, trained.folder / run.result.folder.name)
    mine = replace(
        run,
        result=result,
        state=RunState(),
        models=None,
        around_hooks=nullcontext,
        maybe_party=None,
        predicts=True,
        round=trained.rounds,
        # Noise must never repeat, also not where a seed makes all else repeat.
        noise=secrets.token_bytes(32),
    )
    engine_of(owner).run = mine
    half = Half(owner, mine, models)
    if anew:
        half.hooks.call("validate_context")
    load_models(trained, half)
    half.signature.serve(trained)
    _, ids = checked(half.hooks.call("load_local_ids"))
    half.signature.compare_columns()
    made = half.models.models()
    for module in (*made, *modules_beside(owner, made)):
        if module is not None:
            module.eval()
    return Loaded(half, trained, ids)
