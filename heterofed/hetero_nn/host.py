"""Defines the Host, which holds the labels, fuses the features of all parties and sends gradients.

Its hooks are in `hooks.py`, and `train/training.py` calls them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from heterofed.events import Callback
from heterofed.hetero_nn.engine import HalfEngine
from heterofed.hetero_nn.hooks import HostHooks
from heterofed.hetero_nn.predict.host import Missing, predict
from heterofed.hetero_nn.settings import HostSettings
from heterofed.hetero_nn.train.dry_run import HostDryRun
from heterofed.hetero_nn.train.training import HostTraining
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.gradient_defences import EmbeddingAwareDefence, GradientDefence
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.leakage import Effort
from heterofed.protocol.plan import (
    Fusion,
    KeyBits,
    LossReduction,
    PSIParties,
    PSIProtocol,
    SitesOverlap,
    SitesShare,
)
from heterofed.runs.artifacts import Which

if TYPE_CHECKING:
    import pandas as pd


class HeteroNNHostScheduler(HostHooks):
    """The Host of split training: subclass it, define the hooks, and call `launch_task`.

    Args:
        feature_key: the unique key of this party in the task, which is also its identity.
        name: the name of this party in logs and of its results folder; the feature key by default.
        max_rounds: the number of rounds (epochs over the train ids) to train.
        calculation_timeout: the longest silence in seconds of a party that runs user code or heavy
            computations. It is announced to all parties. 0 means no limit.
        schedule_timeout: the longest silence in seconds of a party that runs no user code.
        data_channel_timeout: the longest time in seconds to establish a link to a connected peer,
            and the longest time in seconds without a byte while a message arrives.
        log_rounds: the hook `test` is called after the first round, after every `log_rounds`-th and
            after the last. With 0 it is called after the first and the last.
        is_feature_trainable: whether this party's feature model is trained; False freezes it.
        collaborators: the number of Collaborators to wait for, or their feature keys.
        join_timeout: the longest time in seconds to wait for the parties to connect; 0 means no
            limit.
        insecure: whether to run a task whose file lists no keys. Its TCP connections are not
            encrypted, and anybody on the network can read and change everything. Use it only for
            experiments on a private network.
        wait_for_peers: the time in seconds that all parties wait for a lost party to come back;
            then all resume from their last checkpoint. It is announced to all parties. With 0 the
            task ends at once, and is resumed when all parties are started again.
        seed: the seed of this party's random streams (initial weights, dropout), which is not sent
            to others. None draws a secret seed. Give a number at every party only to repeat a run,
            because anybody who guesses it knows the initial weights. With a number, the order of
            rows derives from the task id.
        shuffle: whether the train ids get a new agreed order in each round.
        early_gradients: whether gradients are sent while `train_a_batch` still runs its backward
            pass, so that the Collaborators compute at the same time. Use it only if `train_a_batch`
            does not change the features' gradients afterwards: changed gradients (noise, clipping)
            are sent again and count, but the others have seen the unchanged ones. With "once" they
            are not sent again, so that the Collaborators step at the same time too; gradients that
            `train_a_batch` changes afterwards end the task. With staleness, gradients are sent
            after the step.
        checkpoint_batches: the number of batches between two checkpoints within a round; 0 means
            that there are checkpoints only after rounds. It requires `batch_size`, and hooks that
            use `self.batches(train_ids)`, because they are called once for each part of a round.
        batch_size: the number of rows in a batch that all parties agree on; `self.batches(ids)`
            yields such batches. With None each hook makes its own batches.
        compress_features: how the Collaborators' floating tensors are sent: None for unchanged, or
            rounded to "fp16", "bf16" or "int8" (with a scale per row). They arrive in their own
            dtype.
        compress_gradients: how gradients are sent, with the same values.
        max_staleness: with k, the Collaborators run their forward passes exactly k steps ahead of
            the gradients, so that they need not wait for each round trip. 0 trains the joined model
            exactly. "auto" measures the first batches and chooses, and chooses again as links and
            parties get slower or faster.
        party_dropout: the probability that a Collaborator's features of a row are set to zero in
            training, for models that will predict rows that a party does not have (see `predict`).
        fusion: "separate" gives the Host each Collaborator's features. With "masked_sum", two or
            more Collaborators mask their features, so that only their sum can be read;
            `train_a_batch` and `test` get it under the key "masked_sum" as one tensor [rows, d].
            The features must be floats of one shape, and joint predictions are not possible.
        gradient_defence: transforms the gradients of the features before they are sent, so that
            they reveal less about the labels, for example
            `heterofed.privacy.synthetic_gradients.SyntheticGradients()`.
        label_dp: randomises labels before training, as `RandomisedResponse(epsilon)`. It requires
            that `iterate_train_feature` yields `Batch(features, labels, ids)`.
        weights_defence: trains the Host's own weights by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`).
        max_releases_per_row: the most times that gradients of any row may be sent in all runs of
            this task together, including early ones. Gradients of one batch for several
            Collaborators count once. The task ends with a `ReleaseLimitError` before it would send
            more. None sets no limit.
        max_epsilon: the largest `eps_labels` or `eps_weights` of all runs of this task together, if
            this party has such a defence. The task ends with a `ReleaseLimitError` before it would
            exceed it.
        limits: limits of the terms on what may leave any party, by name, for example
            `{"max_label_auc": 0.65, "min_intersection": 1000}`; see
            `heterofed.protocol.leak_limits.LeakLimits`. They are announced to all parties, and each
            party enforces those that protect its data: it ends the task with a `LeakLimitError`
            before it would send more. With a task file they are its table `[limits]`.
        recording: whether the terms let every party record what it receives. With a task file it
            is `recording` in its table `[plan]`; a Host that records itself needs not give it.
        max_rollbacks: the most times that a run may be rolled back to the same checkpoint by any
            party, because the same rows are sent again each time. They are counted on disk across
            restarts.
        loss_reduction: whether the loss of `train_a_batch` is the "mean" or the "sum" over the
            rows. It is part of the plan if a party trains by DP-SGD; models that mix rows are then
            refused.
        leak_report: how much to measure what the gradients reveal: "sample" in at most 3 % of the
            time, "full" for every batch, "off" never. The results are written to `leakage.csv`.
        psi_protocol: the protocol of the intersection: "rsa" (blind signatures) or "ecdh" (an OPRF
            over ristretto255, which is faster).
        psi_bits: the size of the intersection's RSA keys in bits, 2048 to 4096.
        psi_parties: whether the Host learns its intersection with each Collaborator
            ("pairwise"), or only the ids that all parties have ("joint"). A joint intersection
            needs `psi_protocol="ecdh"` and two Collaborators or more.
        max_peer_ids: the most ids that any party, including this one, may have intersected. A
            Collaborator's ids are counted over all runs of a task together, and unchanged sets
            count once.
        psi_executor: computes this party's part of the intersection in other processes or on a
            cluster: "processes:8", "dask://scheduler:8786", "ray://head:10001" or any
            `concurrent.futures.Executor`. None uses threads of this process, unless the user's
            configuration names an executor.
        announce_split: whether only the Host's `split_dataset` is used and the other parties are
            told which common ids are in which part, and nothing else. It allows splits by labels or
            by columns that only the Host has.
        id_keys: the number of keys by which rows are matched, with one intersection for each. The
            rows that the first key (`load_local_ids`) does not match are tried by the second one
            (`load_further_ids`), and so on. No row is matched twice.
        final_rows: the number of test rows (at most 10,000) on which the models of the best round
            are evaluated once more after the last round. Each Collaborator sends batches of these
            rows in which it has changed something of its own (`iterate_final_feature`), and the
            Host tells it what it found for each (`final_look`). With 0 there is no such evaluation.
        sites: the sites of each role whose rows are divided among several Collaborators, as in
            `{"shop": ["north", "south"]}`. Each site is a party `shop.north` of its own, with
            `site="north"`; `collaborators` still counts or lists the roles. Hooks of the Host get
            one tensor of the role under "shop". The sites train one feature model (see
            `sites_share`). It requires
            `batch_size`, and hooks that use `self.batches`. Only the Host's `split_dataset` is
            used, as with `announce_split`.
        sites_overlap: what to do about ids that two sites of a role have: end the task with a
            `SitesOverlapError` ("error"), or let the first site in the list have them ("first").
        sites_share: what the sites of a role add up, masked: the gradients of every batch
            ("gradient"), which trains exactly the joined model, or their weights ("weights").
            Then each site steps alone on its own rows, and the weights are averaged by rows
            (FedAvg).
        sites_every: the number of batches after which weights are averaged; they are also averaged
            after the last batch of a round. `checkpoint_batches` must be a multiple of it.
        agreed: settings that all parties share and that code above the schedulers uses, as names
            and values that are strings, such as the format of ids. The Host announces them with its
            plan, and every party reads them as `self.agreed` from `load_local_ids` on. They are not
            secret.
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
        max_rounds: int = 0,
        calculation_timeout: float = 300,
        schedule_timeout: float = 30,
        data_channel_timeout: tuple[float, float] = (30, 60),
        log_rounds: int = 0,
        is_feature_trainable: bool = True,
        *,
        collaborators: int | Sequence[str] = 1,
        join_timeout: float = 3600,
        insecure: bool = False,
        wait_for_peers: float = 0,
        seed: int | None = None,
        shuffle: bool = False,
        early_gradients: bool | Literal["once"] = False,
        batch_size: int | None = None,
        checkpoint_batches: int = 0,
        compress_features: Literal["fp16", "bf16", "int8"] | None = None,
        compress_gradients: Literal["fp16", "bf16", "int8"] | None = None,
        max_staleness: int | Literal["auto"] = 0,
        party_dropout: float = 0.0,
        fusion: Fusion = "separate",
        gradient_defence: GradientDefence | EmbeddingAwareDefence | None = None,
        label_dp: RandomisedResponse | None = None,
        weights_defence: DPSGD | None = None,
        max_releases_per_row: int | None = None,
        max_epsilon: float | None = None,
        limits: Mapping[str, float] | None = None,
        recording: bool = False,
        max_rollbacks: int = 10,
        loss_reduction: LossReduction | None = None,
        leak_report: Effort = "sample",
        feature_workers: int = 1,
        shard_feature_model: bool = False,
        psi_protocol: PSIProtocol = "rsa",
        psi_bits: KeyBits = 2048,
        psi_parties: PSIParties = "pairwise",
        max_peer_ids: int = 10_000_000,
        psi_executor: Executor | str | None = None,
        announce_split: bool = False,
        id_keys: int = 1,
        final_rows: int = 0,
        sites: Mapping[str, Sequence[str]] | None = None,
        sites_overlap: SitesOverlap = "error",
        sites_share: SitesShare = "gradient",
        sites_every: int = 1,
        agreed: Mapping[str, str] | None = None,
        record: Literal["inbound"] | None = None,
        record_days: float = 7,
        results_dir: str | Path = "heterofed_runs",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        settings = HostSettings.given(locals())
        self._heterofed = HalfEngine(settings, HostTraining, HostDryRun)

    def predict(
        self,
        task_id: str,
        ids: Sequence[str] | None = None,
        *,
        models: Which = "last",
        missing_party: Missing = "error",
        parties: Sequence[str] | None = None,
        take_home: bool = False,
    ) -> pd.DataFrame:
        """Predict rows jointly with the models of this task's finished run.

        Every Collaborator has to run `serve_predictions`. Their ids are intersected with the
        requested ones, so no party learns of ids that it does not hold.

        Args:
            task_id: the id of the finished task.
            ids: the ids of the rows, which must be this party's own. None predicts the ids of
                `load_predict_ids` that all parties have.
            models: "last" for the models of the last round, "best" for those that `mark_best` kept.
            missing_party: what to do if a Collaborator does not connect within `join_timeout` or
                lacks some rows: raise an error ("error"), or replace its features by their means in
                training ("mean") or by zeros ("zero"). With "mean" and "zero" each Collaborator
                learns which of its ids were requested.
            parties: the feature keys of the Collaborators to wait for, or None for all of the
                training. With `missing_party="error"` none may be left out.
            take_home: whether a model that needs the Host's columns only is to learn from these
                predictions. They are refused unless the task file has `take_home = true`, to which
                every party consents when it accepts the file.

        Returns:
            A pandas DataFrame in the order of `ids`, or sorted by id. Its columns are `id`;
            `prediction`, or each column that `predict_a_batch` returns; and `parties`, the feature
            keys of the parties that have the row, joined by "+".

        Raises:
            ConfigError: a setting or file of this party is wrong, there is no finished run, it used
                `fusion="masked_sum"`, or the parties did not agree to `take_home`.
            MissingPartyError: `missing_party` is "error", and a party lacks rows or is left out.
            OtherRunError: the models of a party come from another run.
            TaskFailed: the prediction failed.
        """
        return predict(
            self,
            task_id,
            ids,
            models=models,
            missing_party=missing_party,
            parties=parties,
            take_home=take_home,
        )
