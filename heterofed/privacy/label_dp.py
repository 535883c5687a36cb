"""Randomised response on labels (Warner 1965), a label DP that holds for any later use of them.

Each sample's label is changed or kept once, by a random choice that depends on its id and a secret.
The same id gets the same label in every round, so that averaging over rounds reveals nothing.
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
    """Keeps a label with probability e^epsilon / (e^epsilon + classes - 1), else draws another one.

    If the Host trains only on the labels that this object returns, all that it sends is epsilon-DP
    for each single label. Metrics on the true labels must not be sent.

    Args:
        epsilon: the epsilon of the label DP, for all rounds together.
        classes: the number of classes.
        secret: 32 secret bytes that determine the random choices. With None, a run uses the task's
            own secret, which is kept in `$HETEROFED_HOME` and is the same in all runs of the task.
        label_set: a name for the labels. The choices for each name are independent and have an
            epsilon of their own. Use a different name for each set of labels that a task is
            trained on.

    Attributes:
        spent: the epsilon of all responses about these labels, including those with another
            epsilon.

    Raises:
        ConfigError: a setting is out of range.
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
        # Choices with different epsilons must be independent, or their differences tell the label.
        place = repr(("randomised response", label_set, self.epsilon, classes)).encode()
        self._secret = hmac.digest(secret or secrets.token_bytes(32), place, hashlib.sha256)

    def __repr__(self) -> str:
        """Return the settings, without the secret."""
        return f"RandomisedResponse({self.epsilon}, {self.classes}, label_set={self.label_set!r})"

    def with_secret(self, secret: bytes, *, spent: float = 0.0) -> RandomisedResponse:
        """Return the same response with another secret.

        Args:
            secret: 32 secret bytes.
            spent: the epsilon of earlier responses about the same labels with other choices.
        """
        settings = {"secret": secret, "label_set": self.label_set}
        response = RandomisedResponse(self.epsilon, self.classes, **settings)  # type: ignore[arg-type]
        response.spent += spent
        return response

    def by_lot(self) -> RandomisedResponse:
        """Return a response that ignores the labels, for a dry run."""
        return RandomisedResponse(1e-9, self.classes)

    @property
    def coins(self) -> bytes:
        """An identifier of the random choices; equal bytes mean equal choices."""
        named = b"randomised response, the name of its coins %d" % self.classes
        return hmac.digest(self._secret, named, hashlib.sha256)

    @property
    def keeping(self) -> float:
        """The probability that a label is kept."""
        return 1 - self._turning

    @property
    def _turning(self) -> float:
        """The probability that a label is replaced by another class."""
        # 1 - keeping would lose all digits for a large epsilon.
        return 1 / (1 + math.exp(self.epsilon) / (self.classes - 1))

    def __call__(self, labels: Tensor, ids: Sequence[str]) -> Tensor:
        """Return the randomised labels, of the same shape and dtype.

        Args:
            labels: whole numbers from 0 to classes - 1, of shape [rows] or [rows, 1].
            ids: the ids of the same rows.

        Raises:
            ConfigError: the numbers of ids and rows differ, or labels are out of range.
        """
        numbers = labels.reshape(-1)
        if len(numbers) != len(ids):
            raise ConfigError(
                f"RandomisedResponse: there are {len(ids)} ids for {len(numbers)} labels; give one"
                " id per label"
            )
        whole = numbers.to(torch.int64)
        if not bool(((whole == numbers) & (whole >= 0) & (whole < self.classes)).all()):
            raise ConfigError(
                f"RandomisedResponse: give labels that are whole numbers from 0 to"
                f" {self.classes - 1}, or another number of classes"
            )
        turns = torch.tensor([self._turn(each) for each in ids], dtype=torch.int64)
        turned = (whole + turns.to(whole.device)) % self.classes
        return turned.to(labels.dtype).reshape(labels.shape)

    def _turn(self, name: str) -> int:
        """Return the number to add to the label of an id, modulo the classes; 0 keeps it."""
        digest = hmac.digest(self._secret, name.encode("utf-8", "surrogatepass"), hashlib.sha256)
        chance = int.from_bytes(digest[:16], "big") / 2**128
        if chance >= self._turning:
            return 0
        return 1 + int.from_bytes(digest[16:], "big") % (self.classes - 1)
