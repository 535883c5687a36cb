"""Defines the Collaborator, which holds features, sends embeddings and trains on their gradients.

Its hooks are in `hooks.py`, and `train/training.py` calls them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

from heterofed.events import Callback
from heterofed.hetero_nn.engine import HalfEngine
from heterofed.hetero_nn.hooks import CollaboratorHooks
from heterofed.hetero_nn.predict.collaborator import serve
from heterofed.hetero_nn.serve.collaborator import allowed_ids, serve_rows
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.hetero_nn.settings import CollaboratorSettings
from heterofed.hetero_nn.train.dry_run import CollaboratorDryRun
from heterofed.hetero_nn.train.training import CollaboratorTraining
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.leakage import Effort


class HeteroNNCollaboratorScheduler(CollaboratorHooks):
    """A Collaborator of split training: subclass it, define the hooks, and call `launch_task`.

    Args:
        feature_key: the unique key of this party in the task, which is also its identity.
        name: the name of this party in logs and of its results folder; the feature key by default.
        schedule_timeout: the longest silence in seconds of the Host before its plan is known.
        data_channel_timeout: the longest time in seconds to establish a link to a running Host,
            and the longest time in seconds without a byte while a message arrives.
        is_feature_trainable: whether this party's feature model is trained; False freezes it, and
            no gradients are sent to it.
        max_peer_ids: the most ids that the Host may intersect in all runs of a task together. They
            are counted on disk, so that the Host cannot test arbitrarily many guesses. Unchanged
            sets count once, and simulations do not count.
        psi_executor: computes this party's part of the intersection in other processes or on a
            cluster: "processes:8", "dask://scheduler:8786", "ray://head:10001" or any
            `concurrent.futures.Executor`. None uses threads of this process, unless the user's
            configuration names an executor.
        psi_key_leaves: whether this party's secret key of an intersection may be sent to an
            executor on other machines. Otherwise such an executor is refused.
        max_releases_per_row: the most times that features of any row may be sent in training,
            tests, predictions and dry runs of all runs of this task together. The task ends with a
            `ReleaseLimitError` before it would send more. None sets no limit.
        max_epsilon: the largest `eps_embeddings` or `eps_weights` of all runs of this task
            together, if this party has such a defence. The task ends with a `ReleaseLimitError`
            before it would exceed it.
        max_rollbacks: the most times that a run may be rolled back to the same checkpoint by any
            party, because the same rows are sent again each time. They are counted on disk across
            restarts.
        seed: the seed of this party's random streams (initial weights, dropout), which is not sent
            to others. None draws a secret seed. Give a number only to repeat a run, because a Host
            that guesses it knows the initial weights and can compute raw rows from features.
        embedding_defence: reduces what embeddings reveal about the inputs: `ClippedGaussian` or
            `Decorrelation` of `heterofed.privacy.embedding_defences`.
        weights_defence: trains the feature model by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`).
        leak_report: how much to measure what the embeddings reveal: "sample" in at most 3 % of the
            time, "full" for every batch, "off" never. The results are written to `leakage.csv`.
        site: the name of this party among the sites of its role, if the rows of the role are
            divided among several parties. Then `feature_key` is the key of the role, and the
            feature key of this party is `<feature_key>.<site>`. The Host lists the sites.
        join_timeout: the longest time in seconds to wait for the Host to connect; 0 means no limit.
        insecure: whether to run a task whose file lists no keys. Its TCP connections are not
            encrypted, and anybody on the network can read and change everything. Use it only for
            experiments on a private network.
        agreed: the settings that the Host must announce as its `agreed=`. If it announces another
            value, the task ends with an `OtherSettingsError` before any id is sent.
        record: "inbound" records what this party receives, and what it sends in answer, in the
            folder `record/` of the results folder, so that `heterofed replay` can run its side of
            any batch again without the other parties. The terms must allow it (`recording`). The
            record is encrypted with a key in `$HETEROFED_HOME`. None records nothing.
        record_days: the number of days after which a record is deleted.
        results_dir: the parent of the results folder `<task_id>/<name>`.
        feature_workers: the number of processes on this machine that compute this party's feature
            model, each on a part of the rows of a batch. It needs the extra `workers` if it is
            above 1. `torchrun` may start the processes instead.
        shard_feature_model: whether these processes divide the weights of the feature model, its
            gradients and the state of its optimizer among them (PyTorch's `fully_shard`, FSDP2), so
            that a model may be larger than the memory of one device.
        callbacks: called with every event of the task (see `heterofed.events`).
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        is_feature_trainable: bool = True,
        *,
        max_peer_ids: int = 10_000_000,
        psi_executor: Executor | str | None = None,
        psi_key_leaves: bool = False,
        max_releases_per_row: int | None = None,
        max_epsilon: float | None = None,
        max_rollbacks: int = 10,
        embedding_defence: ClippedGaussian | Decorrelation | None = None,
        weights_defence: DPSGD | None = None,
        leak_report: Effort = "sample",
        feature_workers: int = 1,
        shard_feature_model: bool = False,
        site: str | None = None,
        join_timeout: float = 3600,
        insecure: bool = False,
        seed: int | None = None,
        agreed: Mapping[str, str] | None = None,
        record: Literal["inbound"] | None = None,
        record_days: float = 7,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = CollaboratorSettings.given(locals())
        self._heterofed = HalfEngine(settings, CollaboratorTraining, CollaboratorDryRun)

    def serve_predictions(
        self,
        task_id: str,
        *,
        max_rows_per_day: int,
        max_ids_per_day: int | None = None,
        allow_ids: Iterable[str] | None = None,
        requests: int = 0,
    ) -> int:
        """Serve the Host's `predict` requests, one after another, with the finished run's model.

        Each request is logged in `predictions/log.jsonl` in the results folder, with times and
        numbers of rows but without ids: once before the first row is sent, and again at its end.
        The server continues after a request that failed, and after a `join_timeout` without one.

        Args:
            task_id: the id of the finished task.
            max_rows_per_day: the most rows to predict per day (UTC). They are counted on disk
                before they are computed; a request that fails before any row was sent is not
                counted.
            max_ids_per_day: the most ids that the Host may intersect for predictions per day (UTC),
                whether this party has them or not. They are counted on disk and apart from
                training. None uses the constructor's `max_peer_ids`.
            allow_ids: the rows to serve, or None for all of `load_local_ids`. The Host does not
                learn that this party has other rows.
            requests: the number of requests after which to return; an error in one of them is
                raised. With 0 the server runs until it is interrupted by Ctrl-C.

        Returns:
            The number of predicted rows.

        Raises:
            ConfigError: a setting or file of this party is wrong, there is no finished run, or it
                used `fusion="masked_sum"`.
            JoinTimeoutError, LimitReachedError, OtherRunError, TaskFailed: a request failed and
                `requests` is not 0.
        """
        return serve(
            self,
            task_id,
            max_rows_per_day=max_rows_per_day,
            max_ids_per_day=max_ids_per_day,
            allow_ids=allow_ids,
            requests=requests,
        )

    def serve_rows(
        self,
        task_id: str,
        *,
        max_rows_per_day: int,
        max_rows_per_minute: int | None = None,
        max_ids_per_day: int | None = None,
        allow_ids: Iterable[str] | None = None,
        max_age: float = 3600.0,
        load_timeout: float = 0.0,
        stop: threading.Event | None = None,
        leave: threading.Event | None = None,
        fresh: Callable[[], HeteroNNCollaboratorScheduler] | None = None,
    ) -> int:
        """Answer the Host's requests for single rows over a standing link, until interrupted.

        The Host runs `heterofed.serving.server.serve`. The link comes back by itself after cuts and
        restarts of either party. How much was asked, and never which rows, is logged once a minute
        in `serving/log.jsonl` in the results folder.

        Args:
            task_id: the id of the finished task.
            max_rows_per_day: the most rows to compute per day (UTC), counted on disk.
            max_rows_per_minute: the same per minute; None sets no limit.
            max_ids_per_day: as in `serve_predictions`.
            allow_ids: as in `serve_predictions`.
            max_age: the time in seconds for which the features of a row are kept. A row that is
                asked for again in this time gets the same bytes and counts towards no limit. 0
                computes them for each request.
            load_timeout: the longest time in seconds that `load_features` may take, in a thread of
                its own; a later result is dropped. 0 sets no limit.
            stop: ends the link once it is set and the Host has ended its session.
            leave: ends the session at once when it is set; the Host is told.
            fresh: makes another scheduler like this one, with which another version of the model
                is loaded while this one serves. Without it a new version is taken over with a new
                link only.

        Returns:
            The number of requests that were answered.

        Raises:
            ConfigError: a setting or file of this party is wrong, there is no finished run, or it
                used `fusion="masked_sum"`.
        """
        limits = ServeLimits(
            max_rows_per_day=max_rows_per_day,
            max_rows_per_minute=max_rows_per_minute,
            max_ids_per_day=max_ids_per_day,
            allow_ids=allowed_ids(allow_ids),
            max_age=max_age,
            load_timeout=load_timeout,
        )
        return serve_rows(self, task_id, limits, stop=stop, leave=leave, fresh=fresh)
