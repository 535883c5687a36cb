"""Runs a horizontal task at a Collaborator: it trains, sends its update, and takes the average."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heterofed.errors import ConfigError
from heterofed.homo_nn.averaging_task import Averaging
from heterofed.homo_nn.local_training import LocalTraining
from heterofed.homo_nn.models import LocalModels
from heterofed.homo_nn.sampling import drawn
from heterofed.homo_nn.settings import HomoCollaboratorSettings
from heterofed.protocol import messages as msg
from heterofed.runs.kept_task import finish_as_collaborator
from heterofed.runs.run import Run
from heterofed.runs.task import CollaboratorTask

if TYPE_CHECKING:
    from heterofed.messaging.peer import Mail, Peer

WHAT_COMES = (msg.BeginUpdate, msg.Average, msg.BeginScores, msg.RoundEnd, msg.Finish)
"""The messages that the Host may send between two phases."""


class CollaboratorAveraging(Averaging, CollaboratorTask):
    """A horizontal task at a Collaborator."""

    @property
    def settings(self) -> HomoCollaboratorSettings:
        """The settings from the Collaborator's constructor."""
        settings: HomoCollaboratorSettings = self.engine.settings
        return settings

    def make_half(self, run: Run) -> None:
        """Make the objects of this party in one run."""
        settings = self.settings
        self.hooks = self.seeded_hooks(run)
        models = LocalModels(self.hooks, run, settings.weights_defence)
        self._local = LocalTraining(self.owner, run, self.hooks, models, settings)
        # What wraps them for DP-SGD belongs to heterofed.
        plain = settings.weights_defence is None
        self.keeping = self.keeping_of(run, models, self._local, walks_models=plain)

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        (host,) = run.party.peers.values()
        self._check_plan(run)
        if run.agreement.resume is None:
            self._connected(run, host)
            self._agree(run, host)
            is_over = False
        else:
            is_over = self.checkpoints.take_up()
            if not is_over:
                self._connected(run, host)
        told = self._serve(run, host, (msg.Finish,) if is_over else WHAT_COMES)
        self.keeping.files.save()
        finish_as_collaborator(run, host, told)

    def _connected(self, run: Run, host: Peer) -> None:
        if run.plan.fusion == "masked_sum" and not run.mask_secrets:
            raise self.unlawful(host, "join", "sent no masking keys for a run that trains")
        self._local.connected()

    def _check_plan(self, run: Run) -> None:
        plan, settings = run.plan, self.settings
        if settings.needs_secure_aggregation and plan.fusion != "masked_sum":
            raise ConfigError(
                f"the plan of {plan.host} sends it the update of each party, and"
                " needs_secure_aggregation=True here: let the Host give secure_aggregation=True"
            )
        gradients = plan.averaging is not None and plan.averaging.sends == "gradients"
        if gradients and settings.weights_defence is not None:
            raise ConfigError(
                f"the plan of {plan.host} averages gradients, to which weights_defence adds no"
                " noise: let the Host choose another strategy than FedSGD"
            )

    def _agree(self, run: Run, host: Peer) -> None:
        """Describe the model, and take the weights to begin with."""
        party = run.party
        with party.in_phase("prepare"):
            self.keeping.make_all()
            asked = party.take(host, msg.DescribeModel).message
            with_weights: bool = asked.weights  # type: ignore[attr-defined]
            party.post(host, *self._local.description(with_weights=with_weights))
            self._local.begin(host, party.take(host, msg.InitialWeights).payload)
            self.keeping.keep_start()
            party.post(host, msg.WeightsHeld())

    def _serve(self, run: Run, host: Peer, expected: tuple[type[msg.Message], ...]) -> msg.Finish:
        """Do what the Host says, until it says that the task is complete."""
        while True:
            mail = self.next_of(run, host, expected)
            match mail.message:
                case msg.BeginUpdate(round=number):
                    self._update(run, host, number)
                case msg.Average(round=number):
                    self._average(run, host, number, mail)
                case msg.BeginScores():
                    self._test(run, host)
                case msg.RoundEnd(best=best, last=last):
                    self._end_round(run, host, best=best, last=last)
                    expected = (msg.Finish,) if last else expected
                case _:
                    return mail.of(msg.Finish)

    def _update(self, run: Run, host: Peer, number: int) -> None:
        if run.party.name not in drawn(run.plan, number):
            what = f"asks for an update in round {number}, for which others were drawn"
            raise self.unlawful(host, "train", what)
        run.round = number
        with run.party.in_phase("train", round_number=number):
            run.party.post(host, *self._local.update())

    def _average(self, run: Run, host: Peer, number: int, mail: Mail) -> None:
        if run.round < number and run.party.name in drawn(run.plan, number):
            what = f"averages round {number} without this party, which was drawn for it"
            raise self.unlawful(host, "train", what)
        run.round = number
        self._local.take(host, mail.payload)

    def _test(self, run: Run, host: Peer) -> None:
        with run.party.in_phase("test", round_number=run.round):
            run.party.post(host, self._local.scores())

    def _end_round(self, run: Run, host: Peer, *, best: bool, last: bool) -> None:
        with run.party.in_phase("checkpoint", round_number=run.round):
            self.checkpoints.close_round(best=best, last=last)
            run.party.post(host, msg.CheckpointHeld(run.round))
