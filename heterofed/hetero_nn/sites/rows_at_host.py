"""Knows, at the Host, which site has each row, and tells every site its rows of each batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import ConfigError
from heterofed.protocol.messages import MAX_SITE_BATCHES, SiteRows, SplitPlan
from heterofed.protocol.plan import RoleSites
from heterofed.runs.run import Run


class RowsOfSites:
    """The rows of all sites in one run of the Host.

    Args:
        run: the run, whose plan has sites.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._batches: list[list[str]] = []
        self._site_of: dict[str, dict[str, int]] = {}

    # -- the split ---------------------------------------------------------------------------

    def divide(self) -> None:
        """Note which site has each train id and each test id, because the ids were split."""
        state = self._run.state
        state.kept.sites = {
            part: {
                role: torch.tensor([site_of[each] for each in ids], dtype=torch.uint8)
                for role, site_of in state.site_of.items()
            }
            for part, ids in (("train", state.train_ids), ("test", state.test_ids))
        }

    def common_of(self, party: str, common: Sequence[str]) -> Sequence[str]:
        """Return those of the common ids, in their order, that a Collaborator has."""
        role = self._role(party)
        if role is None:
            return common
        site_of, own = self._run.state.site_of[role.role], role.parties.index(party)
        return [each for each in common if site_of[each] == own]

    def forget_common(self) -> None:
        """Forget who has the common ids, because train and test ids are noted."""
        self._run.state.site_of = {}

    def digests(self, party: str) -> SplitPlan:
        """Return the digests of the train and test ids that a Collaborator has."""
        state, secret = self._run.state, self._run.agreement.secret
        train = self.common_of(party, state.train_ids)
        test = self.common_of(party, state.test_ids)
        return SplitPlan(
            keyed_digest(secret, "train", train),
            keyed_digest(secret, "test", test),
            len(train),
            len(test),
        )

    # -- batches -----------------------------------------------------------------------------

    def begin(self, batches: Iterable[list[str]], *, testing: bool) -> None:
        """Tell every site the numbers of its rows in the batches of a round, or of its test.

        Args:
            batches: the ids of each batch.
            testing: whether it is a test.

        Raises:
            ConfigError: there are too many batches.
        """
        state = self._run.state
        self._batches = list(batches)
        if len(self._batches) > MAX_SITE_BATCHES:
            raise ConfigError(
                f"{len(self._batches)} batches are more than sites are told about"
                f" ({MAX_SITE_BATCHES}); give a larger batch_size"
            )
        part, ids = ("test", state.test_ids) if testing else ("train", state.train_ids)
        self._site_of = {
            role: dict(zip(ids, sites.tolist(), strict=True))
            for role, sites in state.kept.sites[part].items()
        }
        for role in self._run.plan.sites:
            for party in role.parties:
                self._tell(party, testing=testing)

    def count(self, number: int) -> int:
        """Return the number of rows of a batch."""
        return len(self._batches[number]) if number < len(self._batches) else 0

    def rows(self, party: str, number: int) -> Tensor | None:
        """Return the rows of a batch that a Collaborator has, int64; None means all of them."""
        role = self._role(party)
        if role is None:
            return None
        return torch.tensor(self._places(role, party, number), dtype=torch.int64)

    def key(self, party: str) -> str:
        """Return the key of a Collaborator's features in projections: its role's, at a site."""
        role = self._role(party)
        return party if role is None else role.role

    def _tell(self, party: str, *, testing: bool) -> None:
        run, role = self._run, self._role(party)
        if role is None:
            return
        counts = [len(self._places(role, party, at)) for at in range(len(self._batches))]
        payload = np.asarray(counts, dtype="<u4").tobytes()
        message = SiteRows(run.round, len(counts), testing)
        run.party.post(run.party.peers[party], message, [payload])

    def _places(self, role: RoleSites, party: str, number: int) -> Sequence[int]:
        if number >= len(self._batches):
            return []
        site_of, own = self._site_of[role.role], role.parties.index(party)
        return [at for at, each in enumerate(self._batches[number]) if site_of[each] == own]

    def _role(self, party: str) -> RoleSites | None:
        return self._run.plan.sites_with(party)
