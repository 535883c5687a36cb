"""Defines the Host of horizontal training, which averages and needs no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.homo_nn.central_dp import CentralDP
from heterofed.homo_nn.hooks import HomoEngine, HomoHostHooks
from heterofed.homo_nn.host_task import HostAveraging
from heterofed.homo_nn.settings import HomoHostSettings
from heterofed.homo_nn.strategies import FedAvg, Strategy
from heterofed.protocol.plan import Weighting

if TYPE_CHECKING:
    from heterofed.events import Callback


class HomoNNHostScheduler(HomoHostHooks):
    """The Host of horizontal training: make one, and call `launch_task`; no hook is required.

    Args:
        feature_key: the unique key of this party in the task, which is also its identity.
        name: the name of this party in logs and of its results folder; the feature key by default.
        max_rounds: the number of rounds to train.
        calculation_timeout: the longest silence in seconds of a party that runs user code, such as
            a whole round of training. It is announced to all parties. 0 means no limit.
        schedule_timeout: the longest silence in seconds of a party that runs no user code.
        data_channel_timeout: the longest time in seconds to establish a link to a connected peer,
            and the longest time in seconds without a byte while a message arrives.
        log_rounds: the hook `test` of the Collaborators is called after the first round, after
            every `log_rounds`-th and after the last. With 0 it is called after the first and the
            last.
        strategy: makes the new weights of the updates: `FedAvg()`, `FedProx(mu)`, `FedSGD(lr)`,
            `FedAvgM(lr, momentum)` or `FedAdam(lr)` of `heterofed.homo_nn`.
        fraction: the part of the Collaborators that train in each round. They are drawn anew for
            each round, equally at every party; the others only get the average.
        weighting: whether an update counts by its "rows", or each one is "equal".
        secure_aggregation: whether the updates are masked in pairs, so that this Host can read only
            their sum. It needs two Collaborators or more. If a party is lost, the round is trained
            once more by all.
        max_update_norm: the largest L2 norm of the change that one party's update makes. The task
            ends with an error that names a party whose update has a larger one. None sets no limit.
        central_dp: clips each party's update and adds noise to their sum, as
            `CentralDP(noise_multiplier, clip, delta)`, so that the averages tell little about any
            one party. It requires `weighting="equal"` and a model all of whose tensors learn.
        max_epsilon: the largest `eps_parties` of all runs of this task together. The task ends with
            a `ReleaseLimitError` before an average is sent that would exceed it. It needs
            `central_dp`.
        max_rows: the most rows that one party may say it has; its update and its scores count by
            them.
        max_model_bytes: the most bytes of a model; with secure aggregation each number takes 8.
        collaborators: the number of Collaborators to wait for, or their feature keys.
        join_timeout: the longest time in seconds to wait for the parties to connect; 0 means no
            limit.
        insecure: whether to run a task whose file lists no keys. Its TCP connections are not
            encrypted, and anybody on the network can read and change everything. Use it only for
            experiments on a private network.
        wait_for_peers: the time in seconds that all parties wait for a lost party to come back;
            then all resume from their last checkpoint. It is announced to all parties. With 0 the
            task ends at once, and is resumed when all parties are started again.
        max_rollbacks: the most times that a run may be rolled back to the same checkpoint by any
            party.
        seed: the seed of this party's random streams. None draws a secret seed. With a number, the
            parties of each round derive from the task id.
        agreed: settings of a layer above the schedulers that all parties share, as strings by name.
            The Host announces them with its plan. They are not secret.
        results_dir: the parent of the results folder `<task_id>/<name>`.
        callbacks: called with every event of the task (see `heterofed.events`).
    """

    def __init__(
        self,
        feature_key: str,
        name: str | None = None,
        max_rounds: int = 0,
        calculation_timeout: float = 3600,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        log_rounds: int = 1,
        *,
        strategy: Strategy | None = None,
        fraction: float = 1.0,
        weighting: Weighting = "rows",
        secure_aggregation: bool = False,
        max_update_norm: float | None = None,
        central_dp: CentralDP | None = None,
        max_epsilon: float | None = None,
        max_rows: int = 10_000_000,
        max_model_bytes: int = 1 << 30,
        collaborators: int | Sequence[str] = 1,
        join_timeout: float = 3600,
        insecure: bool = False,
        wait_for_peers: float = 0,
        max_rollbacks: int = 10,
        seed: int | None = None,
        agreed: Mapping[str, str] | None = None,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        strategy = FedAvg() if strategy is None else strategy
        self._heterofed = HomoEngine(HomoHostSettings.given(locals()), HostAveraging)
