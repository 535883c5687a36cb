"""Defines and checks the arguments of the constructors of both schedulers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from heterofed.errors import ConfigError
from heterofed.homo_nn.central_dp import CentralDP
from heterofed.homo_nn.strategies import Strategy
from heterofed.privacy.dpsgd import DPSGD
from heterofed.protocol.plan import Averaging, KeyBits, Plan, PSIProtocol, Weighting
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

MOST_BYTES = 2**36


@dataclass(frozen=True, kw_only=True)
class HomoHostSettings(LeadSettings):
    """The arguments of the Host; each field is the argument of that name.

    Those of an intersection have the defaults, because a horizontal task compares no ids.
    """

    psi_role: ClassVar[None] = None

    max_rounds: int
    log_rounds: int
    strategy: Strategy
    fraction: float
    weighting: Weighting
    secure_aggregation: bool
    max_update_norm: float | None
    central_dp: CentralDP | None
    max_epsilon: float | None
    max_rows: int
    max_model_bytes: int
    max_rollbacks: int
    wait_for_peers: float
    psi_protocol: PSIProtocol = "rsa"
    psi_bits: KeyBits = 2048
    max_peer_ids: int = 10_000_000

    @property
    def lasting(self) -> dict[str, str]:
        """See `Settings`."""
        own = {"strategy": self.strategy, "central_dp": self.central_dp}
        return {name: described(value) for name, value in own.items()}

    def check(self) -> None:
        super().check()
        check_seconds("wait_for_peers", self.wait_for_peers)
        check_flag("secure_aggregation", self.secure_aggregation)
        if not isinstance(self.strategy, Strategy):
            raise ConfigError(f"strategy={self.strategy!r}: give FedAvg() or another strategy")
        if self.weighting not in get_args(Weighting):
            raise ConfigError(f"weighting={self.weighting!r}: give one of {get_args(Weighting)}")
        for name, least in (("log_rounds", 0), ("max_rows", 1), ("max_rollbacks", 0)):
            if not is_count(value := getattr(self, name), least):
                raise ConfigError(f"{name}={value!r}: give a whole number from {least} on")
        if not is_count(self.max_model_bytes, 1) or self.max_model_bytes > MOST_BYTES:
            raise ConfigError(f"max_model_bytes={self.max_model_bytes!r}: give 1 to {MOST_BYTES}")
        fraction = self.fraction
        if not (is_number(fraction) and 1e-6 <= fraction <= 1):
            raise ConfigError(f"fraction={fraction!r}: give a number above 0 and at most 1")
        self._check_sums()
        self._check_noise()

    def averaging_plan(
        self, collaborators: tuple[str, ...], *, order: int, default_end: bool
    ) -> Plan:
        """Return the plan that the Host announces.

        Args:
            collaborators: the feature keys of the Collaborators, in task order.
            order: the seed from which the parties of each round are drawn.
            default_end: whether the task ends after `max_rounds`.

        Raises:
            ConfigError: one Collaborator alone has no secure sum.
        """
        if self.secure_aggregation and len(collaborators) == 1:
            raise ConfigError(
                "secure_aggregation needs two Collaborators or more; add one, or leave it out"
            )
        noise = self.central_dp
        return self.plan(
            collaborators,
            max_rounds=self.max_rounds if default_end else 0,
            seed=order,
            fusion="masked_sum" if self.secure_aggregation else "separate",
            wait_for_peers=float(self.wait_for_peers),
            max_batch_bytes=self.max_model_bytes,
            averaging=Averaging(
                sends=self.strategy.sends,
                proximal=self.strategy.proximal,
                fraction=float(self.fraction),
                weighting=self.weighting,
                clip=float(noise.clip) if noise else 0.0,
                noise_multiplier=float(noise.noise_multiplier) if noise else 0.0,
            ),
        )

    def _check_noise(self) -> None:
        defence = self.central_dp
        check_made("central_dp", defence, CentralDP)
        if defence is not None and self.weighting != "equal":
            raise ConfigError(
                "central_dp needs weighting='equal', since a party with many rows would count for"
                " more than its noise hides; give it"
            )
        limits = ReleaseLimits(None, self.max_epsilon, self.max_rollbacks)
        limits.check(defended=defence is not None)

    def _check_sums(self) -> None:
        most = self.max_update_norm
        if most is not None and not (is_number(most) and most > 0):
            raise ConfigError(f"max_update_norm={most!r}: give a number above 0, or None")
        if not self.secure_aggregation:
            return
        if self.collaborators == 1:
            raise ConfigError(
                "secure_aggregation needs two Collaborators or more; add one, or leave it out"
            )
        if most is not None:
            raise ConfigError(
                "max_update_norm looks at one party's update, which secure_aggregation hides; give"
                " one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class HomoCollaboratorSettings(Settings):
    """The arguments of a Collaborator; each field is the argument of that name."""

    psi_role: ClassVar[None] = None

    weights_defence: DPSGD | None
    max_epsilon: float | None
    needs_secure_aggregation: bool
    max_rollbacks: int
    max_peer_ids: int = 10_000_000

    @property
    def lasting(self) -> dict[str, str]:
        """See `Settings`."""
        return {"weights_defence": described(self.weights_defence)}

    @property
    def limits(self) -> ReleaseLimits:
        """The limits on what may leave this party."""
        return ReleaseLimits(None, self.max_epsilon, self.max_rollbacks)

    def check(self) -> None:
        super().check()
        check_flag("needs_secure_aggregation", self.needs_secure_aggregation)
        defence = self.weights_defence
        check_made("weights_defence", defence, DPSGD)
        self.limits.check(defended=defence is not None)
