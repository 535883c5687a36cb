"""The plan: the settings that the parties of a task agree on, which the Host announces.

Local settings (device, folders, callbacks, addresses) are not part of it; they are never sent.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heterofed.protocol.leak_limits import LeakLimits

Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86_400)]
PartyName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A\w(?:[\w.\- ]*\w)?\Z")]
"""Letters, digits, '_', '-', '.' and inner spaces, which are safe in logs and folder names."""

AgreedKey = Annotated[str, Meta(max_length=64, pattern=r"\A[a-z][a-z0-9_.\-]*\Z")]
AgreedValue = Annotated[str, Meta(max_length=512, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
MAX_AGREED = 32
"""The largest number of `agreed` settings, so that a Welcome fits into a small header."""

MAX_PARTIES = 64
"""The largest number of Collaborators in a task."""

MAX_ROLES = 8
"""The largest number of roles with sites."""

MAX_SITES = 16
"""The largest number of sites of a role."""

MAX_ID_KEYS = 8
"""The largest number of keys by which rows are matched."""

MAX_FINAL_ROWS = 10_000
"""The largest number of test rows in the final evaluation."""

MAX_STALENESS = 32
"""The largest number of steps by which weights may be stale."""

MAX_PEER_IDS = 2**32
"""The largest limit of ids that a party may set for another one."""

KeyBits = Literal[2048, 3072, 4096]
PSIProtocol = Literal["rsa", "ecdh"]
PSIParties = Literal["pairwise", "joint"]
"""Whether the Host learns its intersection with each Collaborator, or only the ids of all."""
Steps = Annotated[int, Meta(ge=0, le=MAX_STALENESS)]
Staleness = Steps | Literal["auto"]
Coding = Literal["none", "fp16", "bf16", "int8"]
"""The form of sent float tensors: unchanged, in 16 bits, or in 8 bits with a scale per row."""
LossReduction = Literal["mean", "sum"]
Fusion = Literal["separate", "masked_sum"]
"""Whether the Host gets each Collaborator's features, or only their sum by pairwise masks."""


Weighting = Literal["rows", "equal"]
"""Whether the update of a party counts by its number of rows, or as much as any other."""


SitesOverlap = Literal["error", "first"]
"""The ways to treat an id that two sites of a role have."""


SitesShare = Literal["gradient", "weights"]
"""The numbers that the sites of a role add up: gradients of each batch, or weights after some."""


class RoleSites(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A role whose columns are at several sites, each with its own people.

    Attributes:
        role: the key of the role in projections.
        parties: the feature keys of its sites, in order; the first one makes the initial weights.
    """

    role: PartyName
    parties: Annotated[tuple[PartyName, ...], Meta(min_length=2, max_length=MAX_SITES)]


class Averaging(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agreed settings of a horizontal task, in which models are averaged by rounds.

    Attributes:
        sends: whether the parties send their weights after training, or gradients.
        proximal: the strength mu of the pull of each step towards the weights of the round's start
            (FedProx); 0 means that there is none.
        fraction: the part of the Collaborators that train in a round; the others only get the
            average.
        weighting: whether updates count by rows.
        clip: the largest L2 norm of the change that one party's update makes, to which each party
            clips its own; 0 means that there is none.
        noise_multiplier: the standard deviation of the noise that the Host adds to the sum of the
            updates, in units of `clip`; 0 means that it adds none.
    """

    sends: Literal["weights", "gradients"] = "weights"
    proximal: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    fraction: Annotated[float, Meta(ge=1e-6, le=1)] = 1.0
    weighting: Weighting = "rows"
    clip: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    noise_multiplier: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agreed settings of a task.

    Attributes:
        host: the feature key of the Host.
        collaborators: the feature keys of the Collaborators in task order, in which projections
            reach `train_a_batch`.
        max_rounds: the number of rounds to train, each of which is one epoch over the train ids; 0
            means that only the Host's `is_task_finished` ends the training.
        seed: the seed of the agreed order of rows in each round. No party's own random streams use
            it.
        shuffle: whether the train ids get a new agreed order in each round.
        checkpoint_batches: the number of batches between two checkpoints within a round; 0 means
            that checkpoints are written only after rounds.
        batch_size: the number of rows in a batch of `self.batches`; 0 means that the parties have
            agreed on no batch size, and that their hooks make the batches.
        compress_features: the form in which features are sent.
        compress_gradients: the form in which gradients are sent.
        max_staleness: the number of steps that may be missing in the weights of a Collaborator's
            forward pass; "auto" means that the Host chooses it after the first batches.
        loss_reduction: the way in which the Host's loss combines the rows of a batch, if a party
            that trains with DP-SGD must know it; otherwise None.
        fusion: whether the Host gets each Collaborator's features ("separate"), or only their sum
            ("masked_sum").
        credit: the number of batches of features that a Collaborator may send ahead of the Host
            where no step waits for an answer, which is in tests and at a frozen party.
        calculation_timeout: the longest silence in seconds of a party that runs user code or heavy
            computations; 0 means no limit.
        schedule_timeout: the longest silence in seconds of a party that runs no user code.
        wait_for_peers: the time in seconds that all parties wait for a lost party to come back; 0
            means that the task ends at once.
        psi_protocol: the protocol of the intersection: RSA blind signatures, or an OPRF over
            ristretto255.
        psi_bits: the size of the intersection's RSA keys in bits.
        psi_parties: whether the Host learns its intersection with each Collaborator ("pairwise"),
            or only the ids that all parties have ("joint").
        id_keys: the number of keys by which rows are matched. There is one intersection for each
            key, and it takes only the rows that no earlier key has matched.
        max_peer_ids: the largest number of ids that one party may bring to an intersection.
        max_batch_bytes: the largest size in bytes of one batch of features or gradients, or of the
            weights of a horizontal task.
        final_rows: the number of test rows on which the best models are evaluated once more after
            the last round, to measure what each feature contributes; 0 means that they are not.
        announced_split: whether the Host announces which common ids are for training and which are
            for tests; otherwise each party computes the split by the same function.
        averaging: the settings of a horizontal task; None in any other task.
        sites: the roles whose rows are divided among several Collaborators, which train one feature
            model.
        sites_overlap: what to do about an id that two sites of a role have: end the task, or let
            the first site have it.
        sites_share: whether the sites of a role sum the gradients of their feature models after
            every batch, so that they stay one model, or step alone and average their weights.
        sites_every: the number of batches after which weights are averaged; they are also averaged
            after the last batch of a round.
        take_home: whether the Host may ask for joint predictions to make a model from them that
            needs its own columns only, and so keeps what the columns of the others taught it.
        agreed: settings that code above the protocol agrees on, such as the prediction target and
            the format of ids, as names and values. The protocol sends them and never reads them.
        limits: the limits on what may leave a party, which each party enforces itself.
        recording: whether a party may keep what the others send it, encrypted and for a limited
            time, so that it can replay its own side of the run.
    """

    host: PartyName
    collaborators: Annotated[tuple[PartyName, ...], Meta(min_length=1, max_length=MAX_PARTIES)]
    max_rounds: Annotated[int, Meta(ge=0, le=10**9)] = 0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    shuffle: bool = False
    checkpoint_batches: Annotated[int, Meta(ge=0, le=2**31)] = 0
    batch_size: Annotated[int, Meta(ge=0, le=2**31)] = 0
    compress_features: Coding = "none"
    compress_gradients: Coding = "none"
    max_staleness: Staleness = 0
    loss_reduction: LossReduction | None = None
    fusion: Fusion = "separate"
    credit: Annotated[int, Meta(ge=1, le=64)] = 16
    calculation_timeout: Seconds = 300.0
    schedule_timeout: Seconds = 30.0
    wait_for_peers: Seconds = 0.0
    psi_protocol: PSIProtocol = "rsa"
    psi_bits: KeyBits = 2048
    psi_parties: PSIParties = "pairwise"
    id_keys: Annotated[int, Meta(ge=1, le=MAX_ID_KEYS)] = 1
    max_peer_ids: Annotated[int, Meta(ge=1, le=MAX_PEER_IDS)] = 10_000_000
    max_batch_bytes: Annotated[int, Meta(ge=1, le=2**36)] = 3 << 26
    final_rows: Annotated[int, Meta(ge=0, le=MAX_FINAL_ROWS)] = 0
    announced_split: bool = False
    averaging: Averaging | None = None
    sites: Annotated[tuple[RoleSites, ...], Meta(max_length=MAX_ROLES)] = ()
    sites_overlap: SitesOverlap = "error"
    sites_share: SitesShare = "gradient"
    sites_every: Annotated[int, Meta(ge=1, le=2**31)] = 1
    take_home: bool = False
    agreed: Annotated[tuple[tuple[AgreedKey, AgreedValue], ...], Meta(max_length=MAX_AGREED)] = ()
    limits: LeakLimits = LeakLimits()
    recording: bool = False

    def sites_with(self, party: str) -> RoleSites | None:
        """Return the role that has `party` as one of its sites, or None."""
        return next((each for each in self.sites if party in each.parties), None)

    def next_sum(self, batch: int, batches: int) -> int:
        """Return the first batch from `batch` on after which the sites of a role add up what they
        share.

        Args:
            batch: the number of a batch; `batches` if all are summed.
            batches: the number of batches of the round.
        """
        if batch >= batches:
            return batch
        return min((batch // self.sites_every + 1) * self.sites_every, batches) - 1

    @property
    def shares_secrets(self) -> bool:
        """Whether the Collaborators share secrets, by which they mask what is summed, or hide what
        pairs of parties have in common.
        """
        summed = self.fusion == "masked_sum" or bool(self.sites)
        return summed or self.psi_parties == "joint"

    def psi_tags(self, count: int) -> int:
        """Return how many values of 16 bytes a Collaborator with `count` ids sends in `PsiTags`.

        A joint intersection has an oblivious key-value store in place of the tags; its size is that
        of `psi.multiparty.key_value_store`.
        """
        return count + count // 10 + 257 if self.psi_parties == "joint" else count

    @property
    def psi_value_bytes(self) -> int:
        """The width of a blinded or signed value in bytes."""
        return self.psi_bits // 8 if self.psi_protocol == "rsa" else 32


def of_prediction(plan: Plan) -> Plan:
    """Return a task's plan as it holds for a prediction.

    A prediction may do without a party that lacks a row, so its Host learns who has which.
    """
    return msgspec.structs.replace(plan, psi_parties="pairwise")


def wrong_with_sites(plan: Plan, *, partial: bool = False) -> str:
    """Return what is wrong with the sites of a plan; empty if nothing is.

    Args:
        plan: the plan.
        partial: whether sites may be missing among the Collaborators, as in a prediction.
    """
    if not plan.sites:
        return ""
    roles = [each.role for each in plan.sites]
    named = [party for each in plan.sites for party in each.parties]
    if len({*roles, *named}) != len(roles) + len(named) or plan.host in roles:
        return "give every role and every site a name of its own"
    strangers = [party for party in named if party not in plan.collaborators]
    if strangers and not partial:
        return f"{strangers[0]} is none of the collaborators; list every site there, too"
    if any(role in plan.collaborators for role in roles):
        return "a role with sites cannot be a collaborator itself; give it another name"
    if plan.batch_size == 0 or not plan.announced_split:
        return "they need batch_size and announced_split; give both"
    if plan.sites_share == "gradient" and plan.sites_every != 1:
        return "they share gradients after every batch; leave sites_every out, or share weights"
    if plan.checkpoint_batches % plan.sites_every:
        return "checkpoint_batches has to be a multiple of sites_every; give another one"
    unfit = {
        "fusion='masked_sum'": plan.fusion != "separate",
        "max_staleness": plan.max_staleness != 0,
        "psi_parties='joint'": plan.psi_parties != "pairwise",
        "id_keys": plan.id_keys != 1,
        "final_rows": plan.final_rows > 0,
        "min_batch": plan.limits.min_batch is not None,
        "averaging": plan.averaging is not None,
    }
    found = [name for name, is_set in unfit.items() if is_set]
    return f"they do not go with {found[0]}; leave one of them out" if found else ""
