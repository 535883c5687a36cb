"""Scores batches of requests at the Host, by its own features and those of the Collaborators."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from heterofed.compute.autograd import device_of
from heterofed.compute.features import FeatureBatch
from heterofed.compute.packed_ids import PackedIds
from heterofed.compute.plain import strings
from heterofed.compute.tensors import check_finite, unpack
from heterofed.data.places import Places
from heterofed.errors import ColumnError, FeatureError, IdError, RequestError
from heterofed.hetero_nn.feature_means import FeatureImputer
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.models import HostModels
from heterofed.hetero_nn.predict.host import Missing
from heterofed.hetero_nn.predict.rows import as_columns, who_had
from heterofed.hetero_nn.serve.feature_store import FeatureStore, Rows
from heterofed.hetero_nn.serve.own_features import OwnFeatures
from heterofed.hetero_nn.serve.partners import Partner
from heterofed.hetero_nn.serve.request_queue import Outcome, Request, Scores, too_late
from heterofed.hetero_nn.serve.sessions import shown
from heterofed.hetero_nn.sites.merging import Part, gathered
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.party import Party
from heterofed.protocol.messages import MAX_SERVED_ROWS, ServeAnswer, ServeRequest

logger = logging.getLogger("heterofed")

POLL_SECONDS = 0.05
"""The longest time in seconds between two looks at the deadline while an answer is awaited."""

READS, READS_IDS = "read_columns", "read_ids"

Columns = Mapping[str, Sequence[Any]]
"""The Host's own columns of some rows, as they came with a request."""

REASONS = {
    "limit": "{party} serves no more rows for now",
    "other_version": "{party} has another version of the model",
    "late": "{party} could not load its rows in time",
    "failed": "a hook of {party} failed",
}
"""The reasons for which a Collaborator refuses a request, in words."""


class Scorer:
    """Answers requests with the models of one session.

    Args:
        half: the Host's half.
        party: the Host.
        partners: the Collaborators in task order.
        ids: the ids of the rows that are served, sorted.
        index: finds their rows.
        version: the version of the whole model.
        by_mean: the replacement for rows that a party does not have.
        max_age: the time in seconds for which the Host's own features of a row are kept.
        load_timeout: see `OwnFeatures`.

    Attributes:
        version: the version of the whole model.
        most_rows: the most rows of one batch of requests.
    """

    def __init__(
        self,
        half: Half[HostModels],
        party: Party,
        partners: Sequence[Partner],
        ids: PackedIds,
        index: Places,
        version: bytes,
        *,
        by_mean: Missing,
        max_age: float,
        load_timeout: float = 0.0,
    ) -> None:
        self._features = OwnFeatures(half, load_timeout)
        self._half, self._party, self._partners = half, party, partners
        self._ids, self.version, self._missing = ids, version, by_mean
        self._index = index
        self._store = FeatureStore(len(ids), max_age)
        self._has_features = True
        room = min(each.peer.session.max_batch_bytes for each in partners)
        widest = max(each.imputer.row_bytes for each in partners)
        self.most_rows = max(1, min(MAX_SERVED_ROWS, room // max(1, widest)))

    def score(self, requests: Sequence[Request]) -> list[Outcome]:
        """Return the outcome of each request.

        Raises:
            TaskFailed: a link broke, or a party violated the protocol.
        """
        outcomes: list[Outcome] = []
        known: list[tuple[Request, Rows]] = []
        rows, place = self._index.of([each for request in requests for each in request.ids]), 0
        for request in requests:
            found = rows[place : place + len(request.ids)]
            place += len(found)
            if request.partial:
                outcomes += self._score_served(request, found)
                continue
            try:
                absent = self._read(request.ids, found)
            except RequestError as error:
                outcomes.append((request, error))
                continue
            if absent and (request.columns is None or self._missing == "error"):
                outcomes.append((request, unknown(absent, len(found))))
            elif request.columns is not None:
                outcomes += self._score_together([(request, found)])
            else:
                known.append((request, found))
        return outcomes + (self._score_together(known) if known else [])

    def _read(self, ids: Sequence[str], found: Rows) -> int:
        """Find the rows of those ids that are not served as they are; return how many are not.

        Args:
            ids: the ids of a request.
            found: their rows, in which those that the hook finds are put.

        Raises:
            RequestError: the hook failed.
        """
        absent = np.flatnonzero(found < 0)
        if len(absent):
            asked = [ids[at] for at in absent.tolist()]
            with _failing():
                read = strings(self._half.hooks.call(READS_IDS, asked), READS_IDS)
                if len(read) != len(asked):
                    raise IdError(
                        f"{READS_IDS} gave {len(read)} ids for {len(asked)}; return one for each"
                    )
            found[absent] = self._index.of(read)
        return int(np.count_nonzero(found < 0))

    def _score_together(self, known: Sequence[tuple[Request, Rows]]) -> list[Outcome]:
        """Return the outcomes of requests whose rows are known.

        A request with columns of its own comes alone.
        """
        outcomes: list[Outcome] = []
        rows = np.concatenate([found for _, found in known])
        ends = max(request.ends for request, _ in known)
        try:
            columns, parties = self._scored(rows, ends, known[0][0].columns)
        except RequestError as error:
            return [(request, error) for request, _ in known]
        place = 0
        for request, found in known:
            part = slice(place, place + len(found))
            mine = {name: each[part] for name, each in columns.items()}
            outcomes.append((request, Scores(mine, parties[part], self.version)))
            place += len(found)
        return outcomes

    def _score_served(self, request: Request, found: Rows) -> list[Outcome]:
        """Return the outcome of a request for those of its ids that are served."""
        ids = list(itertools.compress(request.ids, (found >= 0).tolist()))
        if not ids:
            return [(request, Scores({}, [], self.version, []))]
        ((_, outcome),) = self._score_together([(request, found[found >= 0])])
        if isinstance(outcome, Scores):
            outcome.ids = ids
        return [(request, outcome)]

    def close(self) -> None:
        """Wait for no hook any more."""
        self._features.close()

    def drop_late(self) -> None:
        """Take answers that came after their deadline, and drop them."""
        for partner in self._partners:
            partner.link.drop_late(self._party)

    # -- within ------------------------------------------------------------------------------

    def _scored(
        self, rows: Rows, ends: float, given: Columns | None
    ) -> tuple[dict[str, list[Any]], list[str]]:
        """Return the predictions of rows by column, and the parties that had each row."""
        scored = []
        for at in range(0, len(rows), self.most_rows):
            part = slice(at, at + self.most_rows)
            own = None if given is None else {name: each[part] for name, each in given.items()}
            scored.append(self._scored_at_once(rows[part], ends, own))
        columns = {name: [x for each, _ in scored for x in each[name]] for name in scored[0][0]}
        return columns, [name for _, names in scored for name in names]

    def _scored_at_once(
        self, rows: Rows, ends: float, given: Columns | None
    ) -> tuple[dict[str, list[Any]], list[str]]:
        self.drop_late()
        wanted = {each.name: np.where(rows < 0, -1, each.places[rows]) for each in self._partners}
        present = {name: places >= 0 for name, places in wanted.items()}
        projection: dict[str, Any] = {}
        failed: RequestError | None = None
        if not all(each.peer.session.serve_window for each in self._partners):
            raise RequestError("a party is far behind", code="busy", retry_after=1)
        for each in self._partners:
            self._ask(each, wanted[each.name][present[each.name]])
        try:
            mine = self._own(rows) if given is None else self._given(given, len(rows))
            if mine is not None:
                projection[self._party.name] = mine.arranged()
        except RequestError as error:
            failed = error  # the answers must be taken even so
        parts: dict[str, list[Part]] = {each.key: [] for each in self._partners}
        for each in self._partners:
            try:
                places = np.flatnonzero(present[each.name])
                batch = self._answer(each, len(places), ends)
                if batch is not None:
                    parts[each.key].append(Part(each.name, torch.from_numpy(places), batch))
            except RequestError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        for each in self._partners:
            if each.key not in projection:
                whole = self._filled(each, parts[each.key], len(rows))
                projection[each.key] = whole.arranged()
        outcome = self._called("predict_a_batch", projection)
        columns = {name: each.tolist() for name, each in as_columns(outcome, len(rows)).items()}
        return columns, who_had(self._party.name, present, len(rows))

    def _called(self, hook: str, projection: Mapping[str, Any]) -> Any:
        with _failing():
            return self._half.hooks.call(hook, projection)

    def _own(self, rows: Rows) -> FeatureBatch | None:
        """Return the Host's own features of rows; None if it has none."""
        if not self._has_features:
            return None
        self._store.begin_request(time.monotonic())
        missing = self._store.missing(rows)
        if len(missing):
            with _failing():
                batch = self._features.of(self._ids.pick(missing))
                if batch is not None:
                    self._store.put(missing, batch)
            if batch is None:
                self._has_features = False
                return None
        return self._store.take(rows)

    def _given(self, columns: Columns, rows: int) -> FeatureBatch | None:
        """Return the Host's own features of rows whose columns came with a request."""
        plain = {name: list(each) for name, each in columns.items()}
        try:
            with _failing():
                inputs = self._half.hooks.call(READS, plain)
                return self._features.from_inputs(inputs, rows, READS)
        except ColumnError as error:
            raise RequestError(
                "the columns cannot be read; give those of the training, with values of their kind",
                code="invalid",
            ) from error

    def _ask(self, partner: Partner, places: Rows) -> None:
        """Send a request, unless the party has none of the rows."""
        if len(places):
            message = ServeRequest(partner.link.asked, len(places), partner.version)
            self._party.post(partner.peer, message, [places.astype("<u4").tobytes()], patient=False)
            partner.link.asked += 1

    def _answer(self, partner: Partner, rows: int, ends: float) -> FeatureBatch | None:
        """Return a Collaborator's features of the rows that it was just asked for."""
        if not rows:
            return None
        link, peer = partner.link, partner.peer
        while True:
            while (mail := link.next(self._party)) is None:
                left = ends - time.monotonic()
                if left <= 0:
                    link.late = peer.session.unanswered
                    raise too_late()
                self._party.pump(min(left, POLL_SECONDS))
            answer = mail.of(ServeAnswer)
            if answer.number == link.asked - 1:
                break
            link.late -= 1
        if answer.refused:
            why = REASONS[answer.refused].format(party=partner.name)
            raise RequestError(why, code=answer.refused, retry_after=answer.retry_after or None)
        if answer.version != partner.version:
            raise unlawful(partner.name, "serve", "answered with another version of its model")
        coding = peer.session.feature_coding
        tensors = unpack(answer.tensors, mail.payload, partner.name, coding=coding)
        check_finite(tensors, "the features", partner.name)
        return FeatureBatch(answer.layout, tensors)

    def _filled(self, partner: Partner, parts: Sequence[Part], rows: int) -> FeatureBatch:
        """Return the features of all rows that have the key of a Collaborator, checked against
        those of training.
        """
        imputer = partner.imputer
        for each in parts:
            if not _alike(imputer, each.features):
                raise FeatureError(
                    f"{each.party} sent features of another form than in training; use the model"
                    " and the columns of the training there",
                    party=each.party,
                )
        tensors, here = gathered(parts, rows)
        if not bool(here.all()):
            tensors = imputer.fill(tensors, here, partner.key, by_mean=self._missing == "mean")
        device = device_of({}, self._half.models.infer_model)
        placed = {name: each.to(device) if device else each for name, each in tensors.items()}
        return FeatureBatch(imputer.layout, placed)


def _alike(imputer: FeatureImputer, batch: FeatureBatch) -> bool:
    if batch.layout != imputer.layout or batch.tensors.keys() != imputer.means.keys():
        return False
    return all(
        mean is None or (mean.dtype, mean.shape) == (tensor.dtype, tensor.shape[1:])
        for mean, tensor in zip(
            (imputer.means[name] for name in batch.tensors), batch.tensors.values(), strict=True
        )
    )


def unknown(count: int, asked: int) -> RequestError:
    """Return the error of a request with ids that are not served."""
    return RequestError(
        f"{count} of the {asked} ids are not served: they are not in this party's table, or another"
        " party lacks them",
        code="unknown_ids",
    )


@contextmanager
def _failing() -> Iterator[None]:
    """Turn an error of a hook of the Host into an error of the request.

    Raises:
        ColumnError: the hook refused columns; the caller handles it.
        RequestError: the hook is late, or failed in another way.
    """
    try:
        yield
    except (ColumnError, RequestError):
        raise
    except Exception as error:
        logger.error("a request has failed: %s", shown(error))
        raise RequestError("a hook of the Host failed; see its log", code="failed") from error
