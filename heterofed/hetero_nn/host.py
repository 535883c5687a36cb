"""The Host: holds the labels, fuses the features of all parties, sends gradients back.

Its hooks are in `hooks.py`; what it does with them is in `train/training.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from heterofed.privacy.gradient_defences import GradientDefence
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.leakage import Effort
from heterofed.protocol.plan import Fusion, KeyBits, LossReduction, PSIProtocol
from heterofed.runs.artifacts import Which

if TYPE_CHECKING:
    import pandas as pd


class HeteroNNHostScheduler(HostHooks):
    """Subclass it, fill in the hooks, and call `launch_task`.

    Args:
        feature_key: this party's unique key in the task; also its identity.
        name: shown in logs and used for the results folder; the feature key by default.
        max_rounds: rounds (epochs over the train ids) to train.
        calculation_timeout: longest silence (s) of a party that runs user code or heavy compute,
            counted from its last message; announced to all. 0: no limit.
        schedule_timeout: longest silence (s) in steps where a party runs no user code.
        data_channel_timeout: (seconds to establish a link once the peer is there, seconds without
            a byte while one message is moving).
        log_rounds: run `test` after the first round, after every `log_rounds`-th and after the
            last; 0: after the first and the last.
        is_feature_trainable: False freezes this party's feature model.
        collaborators: whom to wait for: how many, or their feature keys.
        join_timeout: seconds to wait for the parties to come online; 0: for ever.
        insecure: run a task whose file lists no keys over TCP in the clear, where anybody on the
            way can read and change everything. For experiments on a network of your own.
        wait_for_peers: seconds that everybody waits for a party that was lost during the task to
            come back, before the task ends; then all go on from their last checkpoint. Announced to
            all. 0: the task ends at once, and goes on when all are started again.
        seed: start of this party's random streams (initial weights, dropout); it stays here. None
            draws a secret one. Give a number, at every party, only to repeat a run: one that others
            can guess tells them the initial weights. The order of rows then hangs on the task id.
        shuffle: give the train ids in a new agreed order each round.
        early_gradients: send gradients ahead, while `train_a_batch` is still in backward, so that
            the Collaborators work at the same time. Only where `train_a_batch` leaves the features'
            gradients as backward made them: what it changes afterwards (noise, clipping) still
            counts, but the others have seen the unchanged ones. With staleness nobody waits for
            them, and they are sent after the step.
        checkpoint_batches: write a checkpoint after every so many batches too, not only after
            rounds; needs `batch_size`, and hooks that use `self.batches(train_ids)`, since they are
            then called once for each such leg of a round. 0: only after rounds.
        batch_size: rows of a batch, agreed by all: `self.batches(ids)` gives them. None: each hook
            cuts its own.
        compress_features: None, "fp16", "bf16" or "int8" (a scale per row): how the Collaborators'
            floating tensors travel. They arrive in their own dtype, rounded.
        compress_gradients: the same for the way back.
        max_staleness: k lets the Collaborators' forwards run up to k steps ahead of the gradients,
            always by exactly as many, so that nobody waits for each round trip; 0 trains the joined
            model exactly. "auto" chooses after the first batches, by how long they take.
        party_dropout: probability that a Collaborator's features of a row are zero in training, for
            models that will predict rows that a party does not have (see `predict`).
        fusion: "masked_sum" has two or more Collaborators mask their features, so that only the sum
            of them can be read; in `train_a_batch` and `test` it stands under "masked_sum", one
            tensor [rows, d], in place of theirs. Their features must be floats of one shape. There
            are no joint predictions then.
        gradient_defence: changes the gradients of the features before they are sent, so that they
            tell less of the labels: `heterofed.privacy.marvell.Marvell(bound=0.6)`, for one.
        label_dp: turns some labels before training: `RandomisedResponse(epsilon)`. Needs
            `Batch(features, labels, ids)` from `iterate_train_feature`.
        weights_defence: trains the Host's own weights by DP-SGD (`heterofed.privacy.dpsgd.DPSGD`).
        max_releases_per_row: how often gradients of any one row may leave in all runs of this task
            together, early ones too; those of one batch for several Collaborators count once. One
            more ends the task with a `ReleaseLimitError` before it leaves; None sets no limit.
        max_epsilon: most that `eps_labels` or `eps_weights` may come to, in all runs together, for
            what this party has a defence for; the task ends like that before it is more.
        max_rollbacks: how often a run may go back to the same checkpoint, whoever asks for it:
            each time the same rows are sent again. Counted on disk, over restarts.
        loss_reduction: whether `train_a_batch` takes the "mean" or the "sum" of its loss over the
            rows; agreed where a party trains by DP-SGD. Models that mix rows are refused then.
        leak_report: "sample" measures what the gradients give away, in at most 3 % of the time;
            "full" measures every batch; "off" nothing. Written to `leakage.csv`.
        psi_protocol: "rsa" (blind signatures) or "ecdh" (an OPRF over ristretto255, faster).
        psi_bits: size of the RSA keys of the intersection, 2048 to 4096.
        max_peer_ids: most ids that any party, this one too, may have intersected; a Collaborator
            in all runs of a task together, those of unchanged sets counted once.
        announce_split: ask `split_dataset` at the Host alone, and tell the others which common ids
            are in which part, and nothing else: for splits by labels, or by columns that only the
            Host has.
        agreed: settings of a layer above the schedulers that all parties are to go by, strings by
            name, such as how ids are written. The Host announces them with its plan; every party
            reads them as `self.agreed`, from `load_local_ids` on. They are no secrets.
        results_dir: parent of `<task_id>/<name>`, where results are written.
        callbacks: get every event of the task (see `heterofed.events`).
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
        early_gradients: bool = False,
        batch_size: int | None = None,
        checkpoint_batches: int = 0,
        compress_features: Literal["fp16", "bf16", "int8"] | None = None,
        compress_gradients: Literal["fp16", "bf16", "int8"] | None = None,
        max_staleness: int | Literal["auto"] = 0,
        party_dropout: float = 0.0,
        fusion: Fusion = "separate",
        gradient_defence: GradientDefence | None = None,
        label_dp: RandomisedResponse | None = None,
        weights_defence: DPSGD | None = None,
        max_releases_per_row: int | None = None,
        max_epsilon: float | None = None,
        max_rollbacks: int = 10,
        loss_reduction: LossReduction | None = None,
        leak_report: Effort = "sample",
        psi_protocol: PSIProtocol = "rsa",
        psi_bits: KeyBits = 2048,
        max_peer_ids: int = 10_000_000,
        announce_split: bool = False,
        agreed: Mapping[str, str] | None = None,
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
    ) -> pd.DataFrame:
        """Predict rows jointly, with the models of this task's finished run.

        Every Collaborator has to run `serve_predictions`. Their ids are intersected with those
        asked for, so nobody learns of ids that it does not hold.

        Args:
            task_id: of the finished task.
            ids: of the rows, all of them this party's own; None: of those of `load_predict_ids`
                the ones that all parties have.
            models: those of the last round, or those that `mark_best` kept.
            missing_party: where a Collaborator is missing (for longer than `join_timeout`), or some
                rows of it: raise an error, or let the "mean" of its features in training or "zero"
                stand for them. Then each Collaborator learns which of its ids were asked for.
            parties: whom to wait for; None: all Collaborators of the training. With
                `missing_party="error"` nobody may be left out.

        Returns:
            A pandas DataFrame in the order of `ids` (else sorted): `id`; `prediction`, or a column
            for each that `predict_a_batch` gives; and `parties`, who had the row, joined by "+".

        Raises:
            ConfigError: something at this party cannot work, there is no finished run, or it was
                one with `fusion="masked_sum"`.
            MissingPartyError: not all parties have all rows, or `parties` leaves one out, with
                `missing_party="error"`.
            OtherRunError: the models of a party are not of the same run.
            TaskFailed: the prediction could not go on.
        """
        return predict(
            self,
            task_id,
            ids,
            models=models,
            missing_party=missing_party,
            parties=parties,
        )
