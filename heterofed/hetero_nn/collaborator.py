"""A Collaborator: holds features only, sends them at the cut layer, trains on what comes back.

Its hooks are in `hooks.py`; what it does with them is in `train/training.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from heterofed.events import Callback
from heterofed.hetero_nn.engine import HalfEngine
from heterofed.hetero_nn.hooks import CollaboratorHooks
from heterofed.hetero_nn.predict.collaborator import serve
from heterofed.hetero_nn.settings import CollaboratorSettings
from heterofed.hetero_nn.train.dry_run import CollaboratorDryRun
from heterofed.hetero_nn.train.training import CollaboratorTraining
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.leakage import Effort


class HeteroNNCollaboratorScheduler(CollaboratorHooks):
    """Subclass it, fill in the hooks, and call `launch_task`.

    Args:
        feature_key: this party's unique key in the task; also its identity.
        name: shown in logs and used for the results folder; the feature key by default.
        schedule_timeout: longest silence (s) of the Host before its plan is known.
        data_channel_timeout: (seconds to establish a link once the Host is there, seconds without
            a byte while one message is moving).
        is_feature_trainable: False freezes this party's feature model: no gradient travels.
        max_peer_ids: ids that the Host may have intersected in all runs of a task together; counted
            on disk, so that nobody walks through a phone book, and those of unchanged sets once.
            Simulations do not count.
        max_releases_per_row: how often features of any one row may leave: in training, in tests,
            predictions and rehearsals of all runs of this task together. One more ends the task
            with a `ReleaseLimitError` before it leaves; None sets no limit.
        max_epsilon: most that `eps_embeddings` or `eps_weights` may come to, in all runs together,
            for what this party has a defence for; the task ends like that before it is more.
        max_rollbacks: how often a run may go back to the same checkpoint, whoever asks for it:
            each time the same rows are sent again. Counted on disk, over restarts.
        seed: start of this party's random streams (initial weights, dropout); it stays here. None
            draws a secret one. Give a number only to repeat a run: a Host that can guess it knows
            the initial weights, and works back from features to raw rows.
        embedding_defence: what is done so that embeddings tell less of the inputs:
            `ClippedGaussian` or `Decorrelation` of `heterofed.privacy.embedding_defences`.
        weights_defence: trains the feature model by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`).
        leak_report: "sample" measures what the embeddings give away, in at most 3 % of the time;
            "full" measures every batch; "off" nothing. Written to `leakage.csv`.
        join_timeout: seconds to wait for the Host to come online; 0: for ever.
        insecure: run a task whose file lists no keys over TCP in the clear, where anybody on the
            way can read and change everything. For experiments on a network of your own.
        agreed: what the Host has to announce as its `agreed=`, of what it announces; the task ends
            with an `OtherSettingsError` before any id leaves where it announces something else.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
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
        max_releases_per_row: int | None = None,
        max_epsilon: float | None = None,
        max_rollbacks: int = 10,
        embedding_defence: ClippedGaussian | Decorrelation | None = None,
        weights_defence: DPSGD | None = None,
        leak_report: Effort = "sample",
        join_timeout: float = 3600,
        insecure: bool = False,
        seed: int | None = None,
        agreed: Mapping[str, str] | None = None,
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
        """Answer the Host's `predict`, one request after another, with the finished run's model.

        Each request is logged in `predictions/log.jsonl` in the results folder: times and row
        counts, no ids; before the first row leaves, and again when it has ended, well or not. A
        request that fails is followed by the next one, and so is a `join_timeout` without one.

        Args:
            task_id: of the finished task.
            max_rows_per_day: rows to predict per day (UTC) at most; counted on disk before they
                are computed, and no longer where the request failed before any of them left.
            max_ids_per_day: ids that the Host may have intersected for predictions per day (UTC),
                whether they are here or not; counted on disk, and apart from those of training.
                None: the constructor's `max_peer_ids`.
            allow_ids: only these rows; None: all of `load_local_ids`. Of others the Host does not
                even learn that they are here.
            requests: return after so many requests, and raise where one fails; 0: serve until
                interrupted by Ctrl-C.

        Returns:
            Rows predicted.

        Raises:
            ConfigError: something at this party cannot work, there is no finished run, or it was
                one with `fusion="masked_sum"`.
            JoinTimeoutError, LimitReachedError, OtherRunError, TaskFailed: only where `requests`
                is given.
        """
        return serve(
            self,
            task_id,
            max_rows_per_day=max_rows_per_day,
            max_ids_per_day=max_ids_per_day,
            allow_ids=allow_ids,
            requests=requests,
        )
