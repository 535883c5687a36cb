"""Defines a Collaborator of horizontal training, which trains on its own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.homo_nn.collaborator_task import CollaboratorAveraging
from heterofed.homo_nn.hooks import HomoCollaboratorHooks, HomoEngine
from heterofed.homo_nn.settings import HomoCollaboratorSettings
from heterofed.privacy.dpsgd import DPSGD

if TYPE_CHECKING:
    from heterofed.events import Callback


class HomoNNCollaboratorScheduler(HomoCollaboratorHooks):
    """A Collaborator of horizontal training: subclass it, define the hooks, and call `launch_task`.

    Args:
        feature_key: the unique key of this party in the task, which is also its identity.
        name: the name of this party in logs and of its results folder; the feature key by default.
        schedule_timeout: the longest silence in seconds of the Host before its plan is known.
        data_channel_timeout: the longest time in seconds to establish a link to the Host, and the
            longest time in seconds without a byte while a message arrives.
        weights_defence: trains the model by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`), so that the
            updates have an epsilon, which is written to `privacy.csv`.
        max_epsilon: the largest `eps_weights` of all runs of this task together. The task ends with
            a `ReleaseLimitError` before an update is sent that would exceed it. It needs a
            `weights_defence`.
        needs_secure_aggregation: whether to refuse a Host that would read each party's update.
        max_rollbacks: the most times that a run may be rolled back to the same checkpoint by any
            party. They are counted on disk across restarts.
        join_timeout: the longest time in seconds to wait for the Host to connect; 0 means no limit.
        insecure: whether to run a task whose file lists no keys. Its TCP connections are not
            encrypted, and anybody on the network can read and change everything. Use it only for
            experiments on a private network.
        seed: the seed of this party's random streams. None draws a secret seed.
        agreed: the settings that the Host must announce as its `agreed=`.
        results_dir: the parent of the results folder `<task_id>/<name>`.
        callbacks: called with every event of the task (see `heterofed.events`).
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        *,
        weights_defence: DPSGD | None = None,
        max_epsilon: float | None = None,
        needs_secure_aggregation: bool = False,
        max_rollbacks: int = 10,
        join_timeout: float = 3600,
        insecure: bool = False,
        seed: int | None = None,
        agreed: Mapping[str, str] | None = None,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = HomoCollaboratorSettings.given(locals())
        self._heterofed = HomoEngine(settings, CollaboratorAveraging)
