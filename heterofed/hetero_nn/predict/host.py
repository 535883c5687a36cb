"""A joint prediction at the Host: rows of several parties in, one table of predictions out.

The parties meet as for a task, and intersect the ids that are asked for, so nobody learns of ids
that it does not hold. Then it is a test with the models of a finished run, of rows in sorted order.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.compute.autograd import device_of, evaluating, sharing_cores
from heterofed.compute.tensors import restore
from heterofed.data.table import need_pandas
from heterofed.errors import ConfigError, MissingIdsError, MissingPartyError, RowCountError
from heterofed.events import Callback
from heterofed.hetero_nn.predict.rows import (
    RowStream,
    as_columns,
    check_own,
    check_same_columns,
    rows_in,
    who_had,
)
from heterofed.hetero_nn.train.row_order import RowOrder
from heterofed.hetero_nn.train.subtask import Errand, log_request
from heterofed.intersection.host import match_each
from heterofed.messaging.party import Party
from heterofed.protocol import messages as msg
from heterofed.reporting.tracebacks import plain_endings
from heterofed.runs.artifacts import (
    Stand,
    Trained,
    Which,
    load_beside,
    load_weights,
    read_stands,
    take_signature,
    trained_here,
)
from heterofed.runs.connect import as_host
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.run import Run, party_of, plan_of

if TYPE_CHECKING:
    import pandas as pd

    from heterofed.hetero_nn.host import HeteroNNHostScheduler

logger = logging.getLogger("heterofed")

Missing = Literal["error", "mean", "zero"]


@plain_endings()
def predict(
    host: HeteroNNHostScheduler,
    task_id: str,
    ids: Sequence[str] | None = None,
    *,
    models: Which = "last",
    missing_party: Missing = "error",
    parties: Sequence[str] | None = None,
) -> pd.DataFrame:
    """See `HeteroNNHostScheduler.predict`."""
    need_pandas()
    return _Prediction(host, ids, models, missing_party, parties).launch_task(task_id)


class _Prediction(Errand):
    """One prediction: the lifecycle of a task around the hooks of a Host's scheduler."""

    FOLDER = "predictions"

    def __init__(
        self,
        host: HeteroNNHostScheduler,
        ids: Sequence[str] | None,
        models: Which,
        missing_party: Missing,
        parties: Sequence[str] | None,
    ) -> None:
        super().__init__(host)
        self._host, self._asked, self._models = host, ids, models
        self._missing, self._parties = missing_party, parties
        self._trained: Trained
        self._frame: pd.DataFrame
        self._stands: dict[str, Stand]
        self._comes: list[str]

    def launch_task(self, task_id: str) -> pd.DataFrame:
        self._launch_beside(task_id)
        return self._frame

    def validate_context(self) -> None:
        super().validate_context()
        run = self._heterofed_run
        if self._missing not in ("error", "mean", "zero"):
            raise ConfigError(f"missing_party={self._missing!r}: give 'error', 'mean' or 'zero'")
        if not self._host._heterofed_predicts():
            raise ConfigError("define predict_a_batch, which gives the predictions of a batch")
        if run is None:
            return
        self._trained = trained_here(run, self._models)
        if "masked_sum" in (self._trained.fusion, self._host._heterofed_fusion):
            raise ConfigError(
                "there are no joint predictions with fusion='masked_sum': batches need not agree in"
                " a prediction, so the features would travel unmasked; measure the model in `test`"
            )
        self._stands = self._expected(read_stands(self._trained))
        run.round = run.result.rounds = self._trained.rounds
        for name in ("feature_model", "infer_model"):
            model = self._host._heterofed_made(name)
            if model is not None:
                load_weights(self._trained, name, model)
        load_beside(self._trained, self._host)
        take_signature(self._trained, run)
        self._heterofed_ids = self._wanted()
        self._host._heterofed_compare_columns(run)

    def _expected(self, stands: dict[str, Stand]) -> dict[str, Stand]:
        """What stands for each Collaborator of the training, once it is clear who must come.

        Raises:
            ConfigError: `parties` are none, or others than those of the training.
            MissingPartyError: one of the training is left out, and nothing may stand for it.
        """
        given = list(stands if self._parties is None else self._parties)
        if isinstance(self._parties, str) or not given or not set(given) <= set(stands):
            raise ConfigError(
                f"parties={self._parties!r}: give some of those of the training, {list(stands)}"
            )
        self._comes = [name for name in stands if name in given]  # in task order
        if self._missing == "error" and (absent := [name for name in stands if name not in given]):
            raise MissingPartyError(
                f"parties={given} leaves out {', '.join(absent)}, whose features the model needs;"
                " give missing_party='zero' or 'mean' to let something stand for them",
                party=absent[0],
            )
        return stands

    def _wanted(self) -> list[str]:
        """The ids to predict, sorted; all of them are this party's own."""
        own = set(check_ids(self._heterofed_call_hook("load_local_ids", self._host.load_local_ids)))
        hook = "load_predict_ids"
        asked = self._asked
        ids = (
            check_ids(self._heterofed_call_hook(hook, self._host.load_predict_ids), hook)
            if asked is None
            else check_ids(asked, "the ids given to predict")
        )
        if absent := sum(each not in own for each in ids):
            raise MissingIdsError(
                f"{absent} of the {len(ids)} ids to predict are not among those of load_local_ids",
                numbers=(absent, len(ids)),
            )
        return sorted(ids)

    def _heterofed_wait_for_folder(self) -> float:
        return self._heterofed_settings.join_timeout or -1.0

    def _heterofed_open_folder(self, run: Run) -> None:
        super()._heterofed_open_folder(run)
        run.result.run = self._trained.run.hex()

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_host(
                run,
                self._heterofed_settings,
                callbacks,
                purpose="predict",
                expected=self._comes,
                timeouts=self._heterofed_timeouts(self._host._heterofed_calculation_timeout),
                make_plan=self._host._heterofed_make_plan,
                partial=self._missing != "error",
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _heterofed_perform(self, run: Run) -> None:
        party = party_of(run)
        matched = self._match(run)
        ids = self._heterofed_ids
        if self._missing == "error":
            common = set(ids).intersection(*matched.values())
            ids = [each for each in ids if each in common]
        run.result.ids = len(ids)
        present = {name: np.array([each in has for each in ids]) for name, has in matched.items()}
        secret = run.agreement.secret if run.agreement else b""
        for peer in party.peers.values():
            theirs = list(itertools.compress(ids, present[peer.name]))
            digest = keyed_digest(secret, "predict", theirs)
            trained = self._trained
            party.post(
                peer,
                msg.PredictPlan(trained.run, trained.rounds, trained.which, len(theirs), digest),
            )
        for peer in party.peers.values():
            party.take(peer, msg.PredictAccepted)
        models = [self._host._heterofed_made(name) for name in ("feature_model", "infer_model")]
        with (
            party.in_phase("predict", round_number=run.round, total=len(ids), unit="rows"),
            evaluating(*models, *modules_beside(self._host, models)),
        ):
            party.broadcast(msg.BeginTest(run.round))
            columns = self._predict(run, ids, present)
        with party.in_phase("finish"):
            party.broadcast(msg.Finish(run.round))
            for peer in list(party.peers.values()):
                party.take_leave(peer)
        self._frame = self._as_frame(ids, columns, present)
        _log(run, len(ids), list(present), self._missing)

    def _match(self, run: Run) -> dict[str, set[str]]:
        """Which ids each party has that is here.

        Raises:
            MissingPartyError: not all have all of them, where nothing may stand for a row.
        """
        if not self._heterofed_ids:
            return {}
        matched = match_each(run, self._heterofed_ids, only_common=self._missing == "error")
        if self._missing == "error" and self._asked is not None:
            least, at = min((len(has), name) for name, has in matched.items())
            asked = len(self._heterofed_ids)
            if least < asked:
                raise MissingPartyError(
                    f"{asked - least} of the {asked} ids to predict are not at all parties; leave"
                    " them out, or give missing_party='zero' or 'mean'",
                    party=at,
                    numbers=(asked - least, asked),
                )
        return matched

    def _predict(
        self, run: Run, ids: Sequence[str], present: Mapping[str, np.ndarray[Any, Any]]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Predictions by column, in the order of `ids`."""
        party, host = party_of(run), self._host
        order = RowOrder(run, host)
        streams = {
            name: RowStream(
                party,
                peer,
                [i for i, here in zip(ids, present[name], strict=True) if here],
                order,
                self._stands[name],
            )
            for name, peer in party.peers.items()
        }
        hook, place = "iterate_predict_feature", 0
        parts: list[dict[str, Tensor]] = []
        for batch in (
            host._heterofed_own_batches(run, hook, ids, grad=False, with_labels=None) if ids else ()
        ):
            rows = rows_in(batch, hook)
            check_own(party, batch, ids[place : place + rows], rows, place, len(ids))
            if batch.ids is None:
                order.unproven()
            own = {} if batch.features is None else {party.name: batch.features}
            theirs = {
                name: self._features_of(name, streams, present, slice(place, place + rows), own)
                for name in self._stands
            }
            outcome = host._heterofed_seeded_hook("predict_a_batch", own | theirs)
            columns = as_columns(outcome, rows)
            if parts:
                check_same_columns(parts[0], columns, len(parts))
            parts.append(columns)
            place += rows
            party.progress(place, len(ids))
        if place != len(ids):
            raise RowCountError(
                f"{hook} yielded {place} rows for {len(ids)} ids", numbers=(place, len(ids))
            )
        for stream in streams.values():
            stream.end()
        names = list(parts[0]) if parts else ["prediction"]
        return {
            name: torch.cat([each[name] for each in parts]).numpy() if parts else np.empty(0)
            for name in names
        }

    def _features_of(
        self,
        name: str,
        streams: Mapping[str, RowStream],
        present: Mapping[str, np.ndarray[Any, Any]],
        part: slice,
        own: Mapping[str, Any],
    ) -> Any:
        """A party's features of some rows, with what stands for those that it does not have."""
        stand = self._stands[name]
        device = device_of({}, self._host._heterofed_made("infer_model"))
        for each in own.values():
            if isinstance(each, Tensor):
                device = each.device
        count = part.stop - part.start
        here = present.get(name)
        mask = (
            torch.zeros(count, dtype=torch.bool) if here is None else torch.from_numpy(here[part])
        )
        found = int(mask.sum())
        tensors = streams[name].rows(found) if found else {}
        if found < count:
            tensors = stand.fill(tensors, mask, name, by_mean=self._missing == "mean")
        placed = {key: tensor.to(device) if device else tensor for key, tensor in tensors.items()}
        return restore(stand.layout, placed)

    def _as_frame(
        self,
        ids: Sequence[str],
        columns: Mapping[str, np.ndarray[Any, Any]],
        present: Mapping[str, np.ndarray[Any, Any]],
    ) -> pd.DataFrame:
        pandas = need_pandas()
        there = {name: present[name] for name in self._stands if name in present}
        parties = who_had(self._heterofed_settings.feature_key, there, len(ids))
        frame = pandas.DataFrame({"id": list(ids), **columns, "parties": parties})
        if self._asked is not None:
            asked = check_ids(self._asked, "ids")
            frame = frame.set_index("id").loc[asked].reset_index()
        return frame  # type: ignore[no-any-return]


def _log(run: Run, rows: int, parties: list[str], missing: str) -> None:
    log_request(run, rows=rows, parties=parties, missing_party=missing)
    logger.info("predicted %d rows with %s", rows, ", ".join(parties) or "nobody else")
