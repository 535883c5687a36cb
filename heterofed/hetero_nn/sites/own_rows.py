"""Knows, at a site, how many of its rows are in each batch."""

from __future__ import annotations

import numpy as np

from heterofed.errors import BatchCountError, ConfigError, RowCountError
from heterofed.hetero_nn.hooks import CollaboratorHooks, updates_by_default
from heterofed.hetero_nn.settings import CollaboratorSettings
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.peer import Mail
from heterofed.privacy.embedding_defences import Decorrelation
from heterofed.protocol.messages import SiteRows
from heterofed.runs.run import Run


class OwnRows:
    """The rows of one site in the batches of the current round or test.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._counts: list[int] = []

    def take(self, mail: Mail, host: str) -> None:
        """Note the numbers that the Host has sent.

        Raises:
            RemoteProtocolError: they are not those of all rows of this party.
        """
        state, said = self._run.state, mail.of(SiteRows)
        self._counts = np.frombuffer(mail.payload, dtype="<u4").tolist()
        ids = state.test_ids if said.testing else state.train_ids
        if sum(self._counts) != len(ids):
            what = f"divides other than the {len(ids)} rows of this site among batches"
            raise unlawful(host, self._run.party.phase, what)

    def counts(self, first: int, most: int | None) -> list[int]:
        """Return the numbers of rows of the batches from `first` on, or of `most` of them."""
        return self._counts[first:] if most is None else self._counts[first : first + most]

    @property
    def batches(self) -> int:
        """The number of batches of the current round or test."""
        return len(self._counts)

    def start(self, first: int) -> int:
        """Return the number of rows in the batches before `first`."""
        return sum(self._counts[:first])


def check_batch(hook: str, party: str, number: int, rows: int | None, expected: int) -> None:
    """Check a batch that a feature hook of a site has yielded.

    Args:
        hook: the name of the hook.
        party: the feature key of the site.
        number: the number of the batch.
        rows: the number of its rows; None if the hook has ended.
        expected: the number of the site's rows in the batch; 0 if the hook should have ended.

    Raises:
        BatchCountError, RowCountError: the site has other batches or rows.
    """
    remedy = "yield one batch for each of self.batches(ids), at a site of a role"
    if (rows is None) != (expected == 0):
        few = "fewer" if rows is None else "more"
        raise BatchCountError(
            f"{hook} of {party} yields {few} batches than it has (batch {number}); {remedy}",
            party=party,
        )
    if rows is not None and rows != expected:
        raise RowCountError(
            f"{hook} of {party} yields {rows} rows in batch {number}, of which it has {expected};"
            f" {remedy}",
            party=party,
            numbers=(rows, expected),
        )


def check_place(run: Run, settings: CollaboratorSettings) -> None:
    """Check that the plan has the site that this party was made as.

    Raises:
        ConfigError: it has not, or it has this party as a site of another role.
    """
    role = run.plan.sites_with(settings.feature_key)
    announced = None if role is None else role.role
    if announced != settings.role:
        raise ConfigError(
            f"this party is {_shown(settings.role)} here and {_shown(announced)} in the plan of"
            f" {run.plan.host}; give site= here and sites= there alike"
        )


def _shown(role: str | None) -> str:
    return "no site" if role is None else f"a site of {role}"


def check_site(owner: CollaboratorHooks, settings: CollaboratorSettings) -> None:
    """Refuse settings of a site with which its model would not be the joined one.

    Raises:
        ConfigError: there are some; the message names the first one.
    """
    unfit = {
        "weights_defence": settings.weights_defence is not None,
        "embedding_defence=Decorrelation(...)": isinstance(
            settings.embedding_defence, Decorrelation
        ),
        "feature_workers": settings.feature_workers > 1,
        "shard_feature_model": settings.shard_feature_model,
        "a hook update_feature_model": not updates_by_default(owner),
    }
    for name, is_set in unfit.items():
        if is_set:
            raise ConfigError(
                f"a site of a role cannot have {name}, which would change its part of the gradient"
                " alone; leave it out (to clip the gradient of all sites, use a hook of the"
                " optimizer, register_step_pre_hook)"
            )
