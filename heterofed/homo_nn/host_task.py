"""Runs a horizontal task at the Host: it adds up updates, and sends the average to all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from heterofed.compute.autograd import check_model
from heterofed.compute.plain import as_truth
from heterofed.errors import RemoteProtocolError
from heterofed.homo_nn.averaging_task import Averaging
from heterofed.homo_nn.central_account import CentralAccount
from heterofed.homo_nn.central_dp import check_layout
from heterofed.homo_nn.hooks import ends_by_default
from heterofed.homo_nn.sampling import drawn
from heterofed.homo_nn.scores import Scored, mean_of
from heterofed.homo_nn.settings import HomoHostSettings
from heterofed.homo_nn.shared_weights import SharedWeights
from heterofed.homo_nn.weights import Layout, check_same, layout_of, packed, state_of, unpacked
from heterofed.protocol import messages as msg
from heterofed.protocol.plan import Plan
from heterofed.runs.kept_task import close_round_as_host, finish_as_host, tell_round_ended
from heterofed.runs.models import ModelRegistry
from heterofed.runs.recorded import record_row
from heterofed.runs.run import Run
from heterofed.runs.task import HostTask

if TYPE_CHECKING:
    from heterofed.messaging.peer import Mail


class HostAveraging(Averaging, HostTask):
    """A horizontal task at the Host."""

    @property
    def settings(self) -> HomoHostSettings:
        """The settings from the Host's constructor."""
        settings: HomoHostSettings = self.engine.settings
        return settings

    def make_half(self, run: Run) -> None:
        """Make the objects of this party in one run."""
        self.hooks = self.seeded_hooks(run)
        self._shared = SharedWeights(run, self.settings)
        models = ModelRegistry({}, ())
        self.keeping = self.keeping_of(run, models, self._shared, walks_models=False)

    def make_plan(self, run: Run, collaborators: tuple[str, ...]) -> Plan:
        """Return the plan that the Host announces."""
        default_end = ends_by_default(type(self.owner))
        return self.settings.averaging_plan(collaborators, order=run.order, default_end=default_end)

    def perform(self, run: Run) -> None:
        """Do the task, from the first phase after the join to its finish."""
        is_over = False
        if run.agreement.resume is not None:
            is_over = self.checkpoints.take_up()
        else:
            self._agree(run)
        while not is_over:
            is_over = self._round(run)
        self.keeping.files.save()
        finish_as_host(run)

    # -- before the rounds -------------------------------------------------------------------

    def _agree(self, run: Run) -> None:
        """Compare the models of all parties, and send them the weights to begin with."""
        party = run.party
        with party.in_phase("prepare"):
            own = check_model(self.hooks.seeded("make_model"), "make_model")
            peers = list(party.peers.values())
            for peer in peers:
                party.post(peer, msg.DescribeModel(weights=own is None and peer is peers[0]))
            told = party.take_all(msg.ModelLayout)
            layouts: dict[str, Layout] = {
                name: mail.message.tensors  # type: ignore[attr-defined]
                for name, mail in told.items()
            }
            if own is not None:
                layouts = {party.name: layout_of(own), **layouts}
            layout, first = check_same(layouts), peers[0].name
            if self.settings.central_dp is not None:
                check_layout(layout)
            weights: dict[str, Tensor] = (
                state_of(own)
                if own is not None
                else unpacked(layout, told[first].payload, first, "the first weights")
            )
            self._shared.begin(layout, weights)
            for peer in peers:
                party.post(peer, msg.InitialWeights(), packed(weights))
            self.keeping.make_all()
            self.keeping.keep_start()
            party.take_all(msg.WeightsHeld)

    # -- a round -----------------------------------------------------------------------------

    def _round(self, run: Run) -> bool:
        """Train, average, test and complete one round, and return whether it was the last."""
        run.round, began = run.round + 1, time.monotonic()
        trained, due = self._train(run), self._is_test_due(run.round)
        tested = self._test(run) if due else {}
        means = [mean_of(list(each.values())) for each in (trained, tested)]
        self.hooks.call("take_scores", *means)
        last = as_truth(self.hooks.call("is_task_finished"), "is_task_finished")
        if last and not due:
            tested = self._test(run)
            means[1] = mean_of(list(tested.values()))
            self.hooks.call("take_scores", *means)
        self._record(run, trained, tested, *means)
        close_round_as_host(run, self.checkpoints, last=last, before=lambda: None)
        shown = {name: value for name, value in {**means[0], **means[1]}.items() if name != "loss"}
        loss = means[0].get("loss", means[1].get("loss"))
        most, seconds = max(self.settings.max_rounds, 0), time.monotonic() - began
        tell_round_ended(run, most, seconds, loss, shown)
        return last

    def _is_test_due(self, number: int) -> bool:
        every = self.settings.log_rounds
        return number == 1 or (every > 0 and number % every == 0)

    def _train(self, run: Run) -> dict[str, Scored]:
        party = run.party
        peers = [party.peers[name] for name in drawn(run.plan, run.round)]
        with party.in_phase("train", round_number=run.round):
            for peer in peers:
                party.post(peer, msg.BeginUpdate(run.round))
            updates = party.take_all(msg.Update, peers=peers)
            scored = self._scored(updates)
            self._charge(run, list(updates))
            with party.computing():
                self._shared.step(updates)
            for peer in party.peers.values():
                party.post(peer, msg.Average(run.round), packed(self._shared.weights))
        return scored

    def _charge(self, run: Run, parties: list[str]) -> None:
        """Count what the average of these parties will reveal, if noise hides them in it."""
        if (defence := self.settings.central_dp) is not None:
            account = CentralAccount(self.owner, run, defence, self.settings.max_epsilon)
            account.charge(parties)

    def _test(self, run: Run) -> dict[str, Scored]:
        party = run.party
        with party.in_phase("test", round_number=run.round):
            party.broadcast(msg.BeginScores(run.round))
            scored = self._scored(party.take_all(msg.Scores))
        return {name: each for name, each in scored.items() if each.values}

    def _scored(self, mails: Mapping[str, Mail]) -> dict[str, Scored]:
        """Return what the parties say of their training, or of their tests.

        Raises:
            RemoteProtocolError: a party says that it has more rows than `max_rows`, by which it
                would count for more than all others.
        """
        found, most = dict[str, Scored](), self.settings.max_rows
        for name, mail in mails.items():
            said: Any = mail.message
            if said.rows > most:
                raise RemoteProtocolError(
                    f"{name} says that it has {said.rows} rows, and max_rows is {most}: what it"
                    " sends counts by them; raise max_rows if that can be true",
                    party=name,
                )
            found[name] = Scored(said.rows, dict(said.scores))
        return found

    def _record(
        self,
        run: Run,
        trained: Mapping[str, Scored],
        tested: Mapping[str, Scored],
        train_mean: Mapping[str, float],
        test_mean: Mapping[str, float],
    ) -> None:
        """Write the means to `train.csv` and `test.csv`, and a row per party to `parties.csv`."""
        owner = type(self.owner)
        rows = sum(each.rows for each in trained.values())
        record_row(run, owner, "train", {"parties": len(trained), "rows": rows, **train_mean})
        record_row(run, owner, "test", test_mean)
        for name in run.plan.collaborators:
            row: dict[str, Any] = {"party": name, "rows": 0}
            if name in trained:
                row |= {"rows": trained[name].rows, **trained[name].values}
            if name in tested:
                row |= {f"test_{key}": value for key, value in tested[name].values.items()}
            record_row(run, owner, "parties", row)
