"""Makes a joint prediction at the Host, which returns one table for rows of several parties.

The parties connect as for a task and intersect the requested ids, so that no party learns of ids
that it does not hold. The rest is like a test with the models of a finished run, on rows in sorted
order.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.compute.autograd import device_of
from heterofed.compute.features import FeatureBatch
from heterofed.data.frames import need_pandas
from heterofed.errors import ConfigError, MissingIdsError, MissingPartyError, RowCountError
from heterofed.hetero_nn.feature_means import FeatureImputer, read_imputers
from heterofed.hetero_nn.half_task import HostHalfTask
from heterofed.hetero_nn.hooks import HostHooks, predicts
from heterofed.hetero_nn.predict.models import load_models
from heterofed.hetero_nn.predict.rows import (
    RowStream,
    as_columns,
    check_own,
    check_same_columns,
    rows_in,
    who_had,
)
from heterofed.hetero_nn.sites.merging import Part, gathered
from heterofed.intersection.host import match_by_keys, match_each
from heterofed.protocol import messages as msg
from heterofed.protocol.plan import Plan
from heterofed.reporting.tracebacks import plain_endings
from heterofed.runs.artifacts import Trained, Which, trained_here
from heterofed.runs.beside import BesideTask, launch_beside, log_request
from heterofed.runs.run import Run
from heterofed.runs.settings import check_flag

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("heterofed")

Missing = Literal["error", "mean", "zero"]
Present = Mapping[str, np.ndarray[Any, Any]]
"""Which rows each connected Collaborator has, as bools of shape [rows]."""


@plain_endings()
def predict(
    host: HostHooks,
    task_id: str,
    ids: Sequence[str] | None = None,
    *,
    models: Which = "last",
    missing_party: Missing = "error",
    parties: Sequence[str] | None = None,
    take_home: bool = False,
) -> pd.DataFrame:
    """Implement `HeteroNNHostScheduler.predict`."""
    need_pandas()
    check_flag("take_home", take_home)
    prediction = Prediction(host, ids, models, missing_party, parties, take_home=take_home)
    launch_beside(prediction, task_id)
    return prediction.frame


class Prediction(BesideTask, HostHalfTask):
    """One prediction, with the hooks of a Host's scheduler.

    Args:
        host: the scheduler with the hooks.
        ids: the ids to predict; None takes those of `load_predict_ids`.
        models: whether to use the models of the last round or of the best.
        missing: the replacement for rows that a party does not have.
        parties: the parties to wait for; None waits for all of the training.
        take_home: whether a model that needs the Host's columns only is made of the predictions.

    Attributes:
        frame: the predictions, after they were made.
    """

    purpose = "predict"
    subfolder = "predictions"

    def __init__(
        self,
        host: HostHooks,
        ids: Sequence[str] | None,
        models: Which,
        missing: Missing,
        parties: Sequence[str] | None,
        *,
        take_home: bool = False,
    ) -> None:
        super().__init__(host)
        self._take_home = take_home
        self._asked, self._which = ids, models
        self._missing, self._parties = missing, parties
        self._trained: Trained
        self._imputers: dict[str, FeatureImputer]
        self._comes: list[str]
        self._ids: list[str]
        self.frame: pd.DataFrame

    @property
    def folder_wait(self) -> float:
        """The seconds to wait for another prediction of this party; -1 waits for ever."""
        return self.settings.join_timeout or -1.0

    def expected(self) -> Sequence[str]:
        """Return the parties to wait for."""
        return self._comes

    def is_partial(self) -> bool:
        """Return whether the prediction starts without missing parties."""
        return self._missing != "error"

    def approve(self, run: Run, plan: Plan) -> None:
        """Refuse predictions for a take-home model unless all parties have agreed to one.

        In a simulation all columns are in one process, so there is nothing to consent to.
        """
        if not self._take_home or run.simulated or (run.terms and plan.take_home):
            return
        file = f"the task file of {run.task_id!r}"
        lacks = f"{file} does not allow it" if run.terms else f"there is no {file[4:]}"
        raise ConfigError(
            "a model of the Host's own columns that learns from joint predictions keeps what the"
            f" columns of the other parties taught it, so all parties must consent, and {lacks}:"
            " set take_home = true in its [plan], and have each party accept it anew (heterofed"
            " task accept)"
        )

    def check(self, run: Run) -> None:
        """Load the models and the ids, so that errors show before the party waits for others."""
        if self._missing not in ("error", "mean", "zero"):
            raise ConfigError(f"missing_party={self._missing!r}: give 'error', 'mean' or 'zero'")
        if not predicts(type(self.owner)):
            raise ConfigError("define predict_a_batch, which gives the predictions of a batch")
        if self.settings.id_keys > 1 and (self._asked is not None or self._missing != "error"):
            raise ConfigError(
                "rows are matched by several keys, so no ids can be chosen; give a table of the"
                " rows"
                " that you want, and leave out ids and missing_party"
            )
        self._trained = trained_here(run, self._which)
        if "masked_sum" in (self._trained.fusion, self.settings.fusion):
            raise ConfigError(
                "there are no joint predictions with fusion='masked_sum': batches need not agree in"
                " a prediction, so the features would be sent unmasked; measure the model in `test`"
            )
        self._imputers = self._expected(read_imputers(self._trained))
        run.round = run.result.rounds = self._trained.rounds
        load_models(self._trained, self.half)
        self.half.signature.serve(self._trained)
        self._ids = self._wanted()
        self.half.signature.compare_columns()

    def _expected(self, imputers: dict[str, FeatureImputer]) -> dict[str, FeatureImputer]:
        """Determine which parties must connect, and return the imputer of each Collaborator.

        Raises:
            ConfigError: `parties` is empty, or names others than those of the training.
            MissingPartyError: a party of the training is left out, and its features may not be
                replaced.
        """
        known = [party for key in imputers for party in self._trained.parties_of(key)]
        chosen = known if self._parties is None else self._parties
        is_list = isinstance(chosen, Sequence) and not isinstance(chosen, str)
        given = list(chosen) if is_list else []
        if not given or not all(each in known for each in given):
            raise ConfigError(
                f"parties={self._parties!r}: give some of those of the training, {known}"
            )
        self._comes = [name for name in known if name in given]  # in task order
        if self._missing == "error" and (absent := [name for name in known if name not in given]):
            raise MissingPartyError(
                f"parties={given} leaves out {', '.join(absent)}, whose features the model needs;"
                " give missing_party='zero' or 'mean' to let something stand for them",
                party=absent[0],
            )
        return imputers

    def _wanted(self) -> list[str]:
        """Return the sorted ids to predict, all of which are this party's own."""
        own = set(check_ids(self.hooks.call("load_local_ids")))
        hook = "load_predict_ids"
        asked = self._asked
        ids = (
            check_ids(self.hooks.call(hook), hook)
            if asked is None
            else check_ids(asked, "the ids given to predict")
        )
        if absent := sum(each not in own for each in ids):
            raise MissingIdsError(
                f"{absent} of the {len(ids)} ids to predict are not among those of load_local_ids;"
                " leave them out, or give a table that has them",
                numbers=(absent, len(ids)),
            )
        return sorted(ids)

    def open_folder(self, run: Run) -> None:
        """Make the folder within that of the trained run."""
        super().open_folder(run)
        run.result.run = self._trained.run.hex()

    def perform(self, run: Run) -> None:
        """Run the prediction, from the intersection of ids to the finish."""
        party = run.party
        matched, ids = self._match(run), self._ids
        if self._missing == "error":
            ids = sorted(set.intersection(*self._by_key(matched).values())) if matched else []
        run.result.ids = len(ids)
        present = {name: np.array([each in has for each in ids]) for name, has in matched.items()}
        self._agree(run, ids, present)
        with (
            party.in_phase("predict", round_number=run.round, total=len(ids), unit="rows"),
            self.half.evaluating(),
        ):
            party.broadcast(msg.BeginTest(run.round))
            columns = self._predict(run, ids, present)
        with party.in_phase("finish"):
            party.broadcast(msg.Finish(run.round))
            for peer in list(party.peers.values()):
                party.take_leave(peer)
        self.frame = self._as_frame(ids, columns, present)
        log_request(
            run,
            rows=len(ids),
            parties=list(present),
            missing_party=self._missing,
            **({"take_home": True} if self._take_home else {}),
        )
        of = f" of {len(self._ids)}" if len(ids) < len(self._ids) else ""
        whom = ", ".join(present) or "nobody else"
        logger.info("predicted %d%s rows with %s", len(ids), of, whom)

    def _agree(self, run: Run, ids: Sequence[str], present: Present) -> None:
        """Tell each Collaborator which of its rows to predict, and with which models."""
        party, trained, secret = run.party, self._trained, run.agreement.secret
        for peer in party.peers.values():
            theirs = list(itertools.compress(ids, present[peer.name]))
            digest = keyed_digest(secret, "predict", theirs)
            party.post(
                peer,
                msg.PredictPlan(trained.run, trained.rounds, trained.which, len(theirs), digest),
            )
        for peer in party.peers.values():
            party.take(peer, msg.PredictAccepted)

    def _match(self, run: Run) -> dict[str, set[str]]:
        """Return the ids that each connected party has.

        Raises:
            MissingPartyError: a party lacks some ids, and its features may not be replaced.
        """
        if not self._ids:
            return {}
        if run.plan.id_keys > 1:
            return match_by_keys(run, self._ids, self.half.further_ids)
        only_common = self._missing == "error"
        roles = self._trained.roles
        matched = match_each(run, self._ids, only_common=only_common, roles=roles)
        if self._missing == "error" and self._asked is not None:
            by_key = self._by_key(matched)
            least, at = min((len(has), name) for name, has in by_key.items())
            asked = len(self._ids)
            if least < asked:
                raise MissingPartyError(
                    f"{asked - least} of the {asked} ids to predict are not at all parties; leave"
                    " them out, or give missing_party='zero' or 'mean'",
                    party=at,
                    numbers=(asked - least, asked),
                )
        return matched

    def _by_key(self, matched: Mapping[str, set[str]]) -> dict[str, set[str]]:
        """Return the ids that each Collaborator or the sites of each role have together, by the key
        of their features in projections.
        """
        parties = {key: self._trained.parties_of(key) for key in self._imputers}
        return {
            key: set[str]().union(*(matched[each] for each in some if each in matched))
            for key, some in parties.items()
            if any(each in matched for each in some)
        }

    def _predict(
        self, run: Run, ids: Sequence[str], present: Present
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return the predictions by column, in the order of `ids`."""
        party, order = run.party, self.half.order
        streams = {
            name: RowStream(
                party,
                party.peers[name],
                [i for i, here in zip(ids, present[name], strict=True) if here],
                order,
                imputer,
            )
            for key, imputer in self._imputers.items()
            for name in self._trained.parties_of(key)
            if name in party.peers
        }
        hook, place = "iterate_predict_feature", 0
        parts: list[dict[str, Tensor]] = []
        own = self.half.batches.of(hook, ids, grad=False, with_labels=None) if ids else ()
        for batch in own:
            rows = rows_in(batch, hook)
            check_own(party, batch, ids[place : place + rows], rows, place, len(ids))
            if batch.ids is None:
                order.unproven()
            mine = {} if batch.features is None else {party.name: batch.features}
            theirs = {
                key: self._features_of(key, streams, present, slice(place, place + rows), mine)
                for key in self._imputers
            }
            columns = as_columns(self.half.hooks.seeded("predict_a_batch", mine | theirs), rows)
            if parts:
                check_same_columns(parts[0], columns, len(parts))
            parts.append(columns)
            place += rows
            party.progress(place, len(ids))
        if place != len(ids):
            raise RowCountError(
                f"{hook} yielded {place} rows for {len(ids)} ids; yield one row per id",
                numbers=(place, len(ids)),
            )
        for stream in streams.values():
            stream.end()
        return _whole(parts)

    def _features_of(
        self,
        key: str,
        streams: Mapping[str, RowStream],
        present: Present,
        part: slice,
        own: Mapping[str, Any],
    ) -> Any:
        """Return the features of some rows that have a key in projections, with replacements for
        rows that no party of the key has.
        """
        imputer = self._imputers[key]
        device = device_of({}, self.half.models.infer_model)
        for each in own.values():
            if isinstance(each, Tensor):
                device = each.device
        count, parts = part.stop - part.start, []
        for name in self._trained.parties_of(key):
            rows = torch.from_numpy(np.flatnonzero(present[name][part] if name in present else []))
            if len(rows):
                features = FeatureBatch(imputer.layout, streams[name].rows(len(rows)))
                parts.append(Part(name, rows, features))
        tensors, mask = gathered(parts, count)
        if not bool(mask.all()):
            tensors = imputer.fill(tensors, mask, key, by_mean=self._missing == "mean")
        placed = {name: tensor.to(device) if device else tensor for name, tensor in tensors.items()}
        return FeatureBatch(imputer.layout, placed).arranged()

    def _as_frame(
        self,
        ids: Sequence[str],
        columns: Mapping[str, np.ndarray[Any, Any]],
        present: Present,
    ) -> pd.DataFrame:
        pandas = need_pandas()
        there = {name: present[name] for name in self._comes if name in present}
        parties = who_had(self.settings.feature_key, there, len(ids))
        frame = pandas.DataFrame({"id": list(ids), **columns, "parties": parties})
        if self._asked is not None:
            asked = check_ids(self._asked, "ids")
            frame = frame.set_index("id").loc[asked].reset_index()
        return frame  # type: ignore[no-any-return]


def _whole(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray[Any, Any]]:
    """Join the predictions of all batches, by column."""
    names = list(parts[0]) if parts else ["prediction"]
    return {
        name: torch.cat([each[name] for each in parts]).numpy() if parts else np.empty(0)
        for name in names
    }
