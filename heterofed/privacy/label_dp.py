"""Randomised response on labels: a label DP that holds whatever is done with them afterwards.

Warner (1965). Each sample's label is turned once, by a coin that hangs on its id and a secret; the
same id gets the same label in every round, so that nothing averages out over rounds.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.gradient_defences import check_positive


class RandomisedResponse:
    """Keeps a label with chance e^epsilon / (e^epsilon + classes - 1), else draws another one.

    The Host trains on what this returns and on nothing else; then all that it sends is
    epsilon-DP in each single label (and metrics on true labels are not to be sent).

    Args:
        epsilon: of the label DP, for all rounds together.
        classes: how many there are.
        secret: 32 bytes that the coins are drawn from. None: a run takes the task's own, which
            lies in `$HETEROFED_HOME` and is the same in all its runs.
        label_set: names what the labels are. The same ids answer by other coins under another
            name, for an epsilon of its own: give one to each where a task is trained on several.

    Attributes:
        spent: epsilon of all that was told of these labels, with other strengths too.

    Raises:
        ConfigError: a setting out of range.
    """

    def __init__(
        self,
        epsilon: float,
        classes: int = 2,
        *,
        secret: bytes | None = None,
        label_set: str = "labels",
    ) -> None:
        check_positive("RandomisedResponse epsilon", epsilon, most=50)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise ConfigError(f"RandomisedResponse classes {classes!r}: give 2 or more")
        if secret is not None and len(secret) != 32:
            raise ConfigError("RandomisedResponse secret: give 32 bytes")
        self.epsilon = float(epsilon)
        self.classes = classes
        self.label_set = label_set
        self.given = secret is not None
        self.spent = self.epsilon
        # Coins of two strengths must not hang together: where their answers differ, they tell.
        place = repr(("randomised response", label_set, self.epsilon, classes)).encode()
        self._secret = hmac.digest(secret or secrets.token_bytes(32), place, hashlib.sha256)

    def with_secret(self, secret: bytes, *, spent: float = 0.0) -> RandomisedResponse:
        """The same with coins of this secret.

        Args:
            secret: 32 bytes.
            spent: epsilon of what was told of the same labels before, by other coins.
        """
        settings = {"secret": secret, "label_set": self.label_set}
        response = RandomisedResponse(self.epsilon, self.classes, **settings)  # type: ignore[arg-type]
        response.spent += spent
        return response

    def by_lot(self) -> RandomisedResponse:
        """One whose answers say nothing of the labels, for a rehearsal."""
        return RandomisedResponse(1e-9, self.classes)

    @property
    def coins(self) -> bytes:
        """What names the coins: the same bytes where the same labels would be turned alike."""
        named = b"randomised response, the name of its coins %d" % self.classes
        return hmac.digest(self._secret, named, hashlib.sha256)

    @property
    def keeping(self) -> float:
        """The chance that a label stays as it is."""
        return 1 - self._turning

    @property
    def _turning(self) -> float:
        # Not 1 - keeping: that has no digits left where epsilon is large.
        return 1 / (1 + math.exp(self.epsilon) / (self.classes - 1))

    def __call__(self, labels: Tensor, ids: Sequence[str]) -> Tensor:
        """Turned labels, of the same shape and dtype.

        Args:
            labels: [rows] or [rows, 1], whole numbers from 0 to classes - 1.
            ids: of the same rows.

        Raises:
            ConfigError: another number of ids than rows, or labels out of range.
        """
        numbers = labels.reshape(-1)
        if len(numbers) != len(ids):
            raise ConfigError(f"RandomisedResponse: {len(ids)} ids for {len(numbers)} labels")
        whole = numbers.to(torch.int64)
        if not bool(((whole == numbers) & (whole >= 0) & (whole < self.classes)).all()):
            raise ConfigError(
                f"RandomisedResponse: labels must be whole numbers from 0 to {self.classes - 1}"
            )
        turns = torch.tensor([self._turn(each) for each in ids], dtype=torch.int64)
        turned = (whole + turns.to(whole.device)) % self.classes
        return turned.to(labels.dtype).reshape(labels.shape)

    def _turn(self, name: str) -> int:
        """How far the label of an id is turned: 0 keeps it."""
        digest = hmac.digest(self._secret, name.encode("utf-8", "surrogatepass"), hashlib.sha256)
        chance = int.from_bytes(digest[:16], "big") / 2**128
        if chance >= self._turning:
            return 0
        return 1 + int.from_bytes(digest[16:], "big") % (self.classes - 1)
