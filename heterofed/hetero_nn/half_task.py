"""Defines what all tasks of split training do alike, in either role."""

from __future__ import annotations

from contextlib import AbstractContextManager

from heterofed.compute.autograd import sharing_cores
from heterofed.errors import ConfigError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import ends_by_default
from heterofed.hetero_nn.models import HalfModels, HostModels
from heterofed.hetero_nn.settings import CollaboratorSettings, HostSettings
from heterofed.hetero_nn.sites.own_rows import check_site
from heterofed.hetero_nn.train.collaborator_loop import CollaboratorLoop
from heterofed.hetero_nn.train.host_loop import HostLoop
from heterofed.hetero_nn.train.site_loop import SiteLoop
from heterofed.protocol.plan import Plan, wrong_with_sites
from heterofed.runs.run import Run
from heterofed.runs.task import CollaboratorTask, HostTask


class HostHalfTask(HostTask):
    """A task of the Host."""

    half: Half[HostModels]
    loop: HostLoop

    @property
    def settings(self) -> HostSettings:
        """The settings from the Host's constructor."""
        settings: HostSettings = self.engine.settings
        return settings

    def begin(self, run: Run) -> None:
        """Prepare for the launch, so that hooks may use models."""
        super().begin(run)
        self.make_half(run)

    def make_half(self, run: Run) -> None:
        """Make the half, and the loop that trains it."""
        self.half = Half(self.owner, run, HostModels)
        self.hooks = self.half.hooks
        self.loop = self.make_loop()

    def make_loop(self) -> HostLoop:
        """Return the loop of this kind of task."""
        return HostLoop(self.owner, self.half, self.settings)

    def make_plan(self, run: Run, collaborators: tuple[str, ...]) -> Plan:
        """Return the plan that the Host announces."""
        default_end = ends_by_default(type(self.owner))
        plan = self.settings.training_plan(collaborators, order=run.order, default_end=default_end)
        if problem := wrong_with_sites(plan, partial=self.is_partial()):
            raise ConfigError(f"{problem}; correct sites")
        return plan

    def sharing(self, run: Run) -> AbstractContextManager[None]:
        """Share the cores of this machine with the other parties."""
        return sharing_cores(1 + len(run.plan.collaborators))


class CollaboratorHalfTask(CollaboratorTask):
    """A task of a Collaborator."""

    half: Half[HalfModels]
    loop: CollaboratorLoop

    @property
    def settings(self) -> CollaboratorSettings:
        """The settings from the Collaborator's constructor."""
        settings: CollaboratorSettings = self.engine.settings
        return settings

    def begin(self, run: Run) -> None:
        """Prepare for the launch, so that hooks may use models."""
        super().begin(run)
        self.make_half(run)

    def make_half(self, run: Run) -> None:
        """Make the half, and the loop that trains it."""
        self.half = Half(self.owner, run, HalfModels)
        self.hooks = self.half.hooks
        self.loop = self.make_loop()

    def make_loop(self) -> CollaboratorLoop:
        """Return the loop of this kind of task."""
        kind = CollaboratorLoop if self.settings.site is None else SiteLoop
        return kind(self.owner, self.half, self.settings)

    def check(self, run: Run) -> None:
        """Refuse settings that a site of a role cannot have."""
        super().check(run)
        if self.settings.site is not None:
            check_site(self.owner, self.settings)

    def sharing(self, run: Run) -> AbstractContextManager[None]:
        """Share the cores of this machine with the other parties."""
        return sharing_cores(1 + len(run.plan.collaborators))
