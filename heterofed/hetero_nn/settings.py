"""Defines and checks the arguments of the constructors of the two schedulers of split training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import msgspec

from heterofed.errors import ConfigError
from heterofed.hetero_nn.sites.settings import (
    check_sites,
    parties_of,
    plan_of_sites,
    site_key,
)
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import EmbeddingAwareDefence, GradientDefence
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.leakage import Effort, check_effort
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.plan import (
    MAX_FINAL_ROWS,
    MAX_ID_KEYS,
    MAX_STALENESS,
    Coding,
    Fusion,
    LossReduction,
    Plan,
    SitesOverlap,
    SitesShare,
)
from heterofed.reporting.results import check_name
from heterofed.runs.settings import (
    LeadSettings,
    ReleaseLimits,
    Settings,
    check_flag,
    check_made,
    check_seconds,
    described,
    is_count,
    is_number,
)

MOST_ROWS = 2**31


@dataclass(frozen=True, kw_only=True)
class HalfSettings(Settings):
    """The arguments of both roles; each field is the argument of that name."""

    is_feature_trainable: bool
    weights_defence: DPSGD | None
    leak_report: Effort
    max_releases_per_row: int | None
    max_epsilon: float | None
    max_rollbacks: int
    feature_workers: int
    shard_feature_model: bool

    @property
    def release_limits(self) -> ReleaseLimits:
        """The limits that this party's user sets on what may leave it."""
        return ReleaseLimits(self.max_releases_per_row, self.max_epsilon, self.max_rollbacks)

    @property
    def lasting(self) -> dict[str, str]:
        """See `Settings`."""
        return {"weights_defence": described(self.weights_defence)}

    @property
    def has_epsilon(self) -> bool:
        """Whether this party has a defence that has an epsilon."""
        return self.weights_defence is not None

    @property
    def trains(self) -> bool:
        """Whether weights of this party are trained."""
        return self.is_feature_trainable

    def check_terms(self, limits: LeakLimits) -> None:
        """Check that this party can keep to the limits of the terms at all.

        Raises:
            ConfigError: a limit needs a defence that this party does not have, or forbids a
                setting of this party.
        """
        if limits.max_eps_weights is not None and self.trains and self.weights_defence is None:
            raise _needs("max_eps_weights", "weights_defence=DPSGD(...)")

    def check(self) -> None:
        super().check()
        check_flag("is_feature_trainable", self.is_feature_trainable)
        check_made("weights_defence", self.weights_defence, DPSGD)
        check_flag("shard_feature_model", self.shard_feature_model)
        check_effort(self.leak_report)
        self.release_limits.check(defended=self.has_epsilon)


@dataclass(frozen=True, kw_only=True)
class CollaboratorSettings(HalfSettings):
    """The arguments of a Collaborator."""

    embedding_defence: ClippedGaussian | Decorrelation | None
    site: str | None
    role: str | None = None

    @classmethod
    def given(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the settings among the arguments; a site's feature key is that of its party."""
        key, site = arguments["feature_key"], arguments["site"]
        named = {"feature_key": key if site is None else site_key(key, site)}
        return super().given({**arguments, **named, "role": None if site is None else key})

    def check_names(self) -> None:
        if self.site is not None:
            check_name(self.site, "site")
        super().check_names()

    @property
    def lasting(self) -> dict[str, str]:
        """See `Settings`."""
        return {**super().lasting, "embedding_defence": described(self.embedding_defence)}

    @property
    def has_epsilon(self) -> bool:
        """Whether this party has a defence that has an epsilon."""
        return super().has_epsilon or isinstance(self.embedding_defence, ClippedGaussian)

    def check(self) -> None:
        check_made("embedding_defence", self.embedding_defence, ClippedGaussian, Decorrelation)
        super().check()

    def check_terms(self, limits: LeakLimits) -> None:
        super().check_terms(limits)
        has_noise = isinstance(self.embedding_defence, ClippedGaussian)
        if limits.max_eps_embeddings is not None and not has_noise:
            raise _needs("max_eps_embeddings", "embedding_defence=ClippedGaussian(...)")


@dataclass(frozen=True, kw_only=True)
class HostSettings(LeadSettings, HalfSettings):
    """The arguments of the Host."""

    max_rounds: int
    log_rounds: int
    wait_for_peers: float
    shuffle: bool
    early_gradients: bool | Literal["once"]
    announce_split: bool
    id_keys: int
    final_rows: int
    batch_size: int | None
    checkpoint_batches: int
    compress_features: Coding | None
    compress_gradients: Coding | None
    max_staleness: int | Literal["auto"]
    party_dropout: float
    fusion: Fusion
    gradient_defence: GradientDefence | EmbeddingAwareDefence | None
    label_dp: RandomisedResponse | None
    limits: Mapping[str, Any] | None
    recording: bool
    loss_reduction: LossReduction | None
    sites: Mapping[str, Sequence[str]] | None
    sites_overlap: SitesOverlap
    sites_share: SitesShare
    sites_every: int

    @classmethod
    def given(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the settings among the arguments; `collaborators` has every site of a role."""
        parties = parties_of(arguments["collaborators"], arguments["sites"])
        return super().given({**arguments, "collaborators": parties})

    @property
    def lasting(self) -> dict[str, str]:
        """See `Settings`."""
        own = {"gradient_defence": self.gradient_defence, "label_dp": self.label_dp}
        told = {name: described(value) for name, value in own.items()}
        return {**super().lasting, **told, "party_dropout": str(float(self.party_dropout))}

    @property
    def has_epsilon(self) -> bool:
        """Whether this party has a defence that has an epsilon."""
        return super().has_epsilon or self.label_dp is not None

    @property
    def trains(self) -> bool:
        """Whether weights of this party are trained: the Host's infer model always is."""
        return True

    def check_terms(self, limits: LeakLimits) -> None:
        super().check_terms(limits)
        if limits.max_eps_labels is not None and self.label_dp is None:
            raise _needs("max_eps_labels", "label_dp=RandomisedResponse(...)")
        if limits.max_label_auc is not None and self.early_gradients is True:
            raise ConfigError(
                "max_label_auc of the terms and early_gradients: early ones travel before they are"
                " measured; leave early_gradients out"
            )

    def check(self) -> None:
        super().check()
        check_seconds("wait_for_peers", self.wait_for_peers)
        check_flag("shuffle", self.shuffle)
        if self.early_gradients != "once":
            check_flag("early_gradients", self.early_gradients)
        check_flag("announce_split", self.announce_split)
        check_flag("recording", self.recording)
        if not is_count(self.log_rounds):
            raise ConfigError(f"log_rounds={self.log_rounds!r}: give 0 or a number of rounds")
        if not is_count(self.id_keys, 1) or self.id_keys > MAX_ID_KEYS:
            raise ConfigError(f"id_keys={self.id_keys!r}: give 1 to {MAX_ID_KEYS}")
        if not is_count(self.final_rows) or self.final_rows > MAX_FINAL_ROWS:
            raise ConfigError(f"final_rows={self.final_rows!r}: give 0 to {MAX_FINAL_ROWS}")
        check_staleness(self.max_staleness)
        check_compression("compress_features", self.compress_features)
        check_compression("compress_gradients", self.compress_gradients)
        self._check_batches()
        dropout = self.party_dropout
        if not (is_number(dropout) and 0 <= dropout < 1):
            raise ConfigError(f"party_dropout={dropout!r}: give a probability from 0 to below 1")
        self._check_fusion()
        self._check_final_look()
        check_made("label_dp", self.label_dp, RandomisedResponse)
        check_gradient_defence(self.gradient_defence)
        self._check_defences()
        given_limits(self.limits)
        check_sites(self)

    def training_plan(
        self, collaborators: tuple[str, ...], *, order: int, default_end: bool
    ) -> Plan:
        """Return the plan that the Host announces.

        Args:
            collaborators: the feature keys of the Collaborators, in task order.
            order: the seed from which the order of rows is drawn.
            default_end: whether the task ends after `max_rounds`.
        """
        return self.plan(
            collaborators,
            max_rounds=self.max_rounds if default_end else 0,
            seed=order,
            shuffle=self.shuffle,
            checkpoint_batches=self.checkpoint_batches,
            batch_size=self.batch_size or 0,
            compress_features=self.compress_features or "none",
            compress_gradients=self.compress_gradients or "none",
            loss_reduction=self.loss_reduction,
            fusion=self.fusion,
            max_staleness=self.max_staleness,
            wait_for_peers=float(self.wait_for_peers),
            announced_split=self.announce_split or bool(self.sites),
            sites=plan_of_sites(self.sites),
            sites_overlap=self.sites_overlap,
            sites_share=self.sites_share,
            sites_every=self.sites_every,
            id_keys=self.id_keys,
            psi_parties=self.psi_parties,
            final_rows=self.final_rows,
            limits=given_limits(self.limits),
            recording=self.recording or self.record is not None,
        )

    def _check_batches(self) -> None:
        size, every = self.batch_size, self.checkpoint_batches
        if size is not None and not (is_count(size, least=1) and size <= MOST_ROWS):
            raise ConfigError(f"batch_size={size!r}: give a number of rows, or None")
        if not is_count(every) or every > MOST_ROWS:
            raise ConfigError(f"checkpoint_batches={every!r}: give 0 or a number of batches")
        if every and not size:
            raise ConfigError(
                "checkpoint_batches needs batch_size: give it, and use self.batches in the hooks"
            )

    def _check_fusion(self) -> None:
        if self.fusion not in get_args(Fusion):
            raise ConfigError(f"fusion={self.fusion!r}: give one of {get_args(Fusion)}")
        if self.fusion != "masked_sum":
            return
        if self.collaborators == 1 or self.early_gradients:
            raise ConfigError(
                "fusion='masked_sum' needs two Collaborators or more (the sum of one is its"
                " features), and no early_gradients; use fusion='separate' otherwise"
            )
        if self.final_rows:
            raise ConfigError(
                "final_rows looks at one party's features, and a masked sum has no parts; give"
                " final_rows=0 or fusion='separate'"
            )
        if self.party_dropout:
            raise ConfigError(
                "party_dropout drops one party's features, and a masked sum has no parts; give"
                " party_dropout=0 or fusion='separate'"
            )

    def _check_final_look(self) -> None:
        if self.final_rows and self.label_dp is not None:
            raise ConfigError(
                "final_rows and label_dp: what the final evaluation tells each Collaborator"
                " is computed from the true labels, which label_dp does not cover; give one of the"
                " two"
            )

    def _check_defences(self) -> None:
        reduction: Any = self.loss_reduction
        if reduction not in (None, *get_args(LossReduction)):
            raise ConfigError(f"loss_reduction={reduction!r}: give 'mean' or 'sum'")
        if self.weights_defence is not None and reduction is None:
            raise ConfigError(
                "weights_defence needs loss_reduction: say whether train_a_batch takes the mean or"
                " the sum of its loss over the rows"
            )
        if reduction is not None and self.early_gradients:
            raise ConfigError(
                "loss_reduction (for DP-SGD) and early_gradients: a second backward, where"
                " train_a_batch changes gradients, would count each sample twice; give one of them"
            )
        if self.gradient_defence is not None and self.early_gradients:
            raise ConfigError(
                "gradient_defence and early_gradients: early ones travel before the defence; give"
                " one of the two"
            )
        aware = isinstance(self.gradient_defence, EmbeddingAwareDefence)
        if aware and self.fusion == "masked_sum":
            raise ConfigError(
                f"gradient_defence={self.gradient_defence!r} needs to see the embeddings of each"
                " Collaborator, which fusion='masked_sum' hides; give another defence, such as"
                " Marvell, or fusion='separate'"
            )


def _needs(limit: str, setting: str) -> ConfigError:
    return ConfigError(
        f"{limit} of the terms needs {setting} at this party, since the epsilon is infinite"
        " without it; give it, or agree on terms without this limit"
    )


def given_limits(limits: Mapping[str, Any] | None) -> LeakLimits:
    """Return the limits that were given to the Host by name.

    Raises:
        ConfigError: a name or value is wrong; the message names it.
    """
    if not isinstance(limits, Mapping | None):
        raise ConfigError(f"limits={limits!r}: give a dict of names and values, or None")
    given = dict(limits or {})
    for name in given:
        if name not in LeakLimits.__struct_fields__:
            known = ", ".join(LeakLimits.__struct_fields__)
            raise ConfigError(f"limits: there is no limit {name!r}; give some of {known}")
    try:
        return msgspec.convert(given, LeakLimits)
    except msgspec.ValidationError as error:
        raise ConfigError(f"limits={given!r}: {error}; correct that limit") from None


def check_gradient_defence(defence: object) -> None:
    """Refuse what cannot transform gradients, such as a class or a defence of something else.

    Raises:
        ConfigError: the value is no such defence.
    """
    others = isinstance(defence, type | ClippedGaussian | Decorrelation | RandomisedResponse)
    works = callable(defence) or isinstance(defence, EmbeddingAwareDefence)
    if defence is not None and (others or not works):
        raise ConfigError(
            f"gradient_defence={defence!r}: give an object such as SyntheticGradients(), which"
            " gets gradients and labels and returns gradients, or None"
        )


def check_staleness(steps: object) -> None:
    """Check how far forward passes may run ahead.

    Raises:
        ConfigError: the value is neither "auto" nor a valid number of steps.
    """
    if steps != "auto" and (not is_count(steps) or steps not in range(MAX_STALENESS + 1)):
        raise ConfigError(
            f"max_staleness={steps!r}: give a number of steps from 0 (exact) to {MAX_STALENESS},"
            ' or "auto"'
        )


def check_compression(name: str, coding: object) -> None:
    """Check how tensors are to be sent.

    Raises:
        ConfigError: the compression is unknown.
    """
    known = get_args(Coding)
    if coding is not None and coding not in known:
        names = ", ".join(f'"{each}"' for each in known[1:])
        raise ConfigError(f"{name}={coding!r}: give None (as they are) or one of {names}")
