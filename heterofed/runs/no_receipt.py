"""Says what a receipt does in a run, and is the receipt of a run whose parties sign none."""

from __future__ import annotations

from collections.abc import Mapping

from heterofed.protocol.messages import Mark, Signed


class NoReceipt:
    """The receipt of a run whose parties sign none: every method does nothing."""

    def note(self, mark: Mark) -> None:
        """Write what was done up to a checkpoint, which is written next.

        Raises:
            ResultsError: the file cannot be written.
        """

    def go_on_from(self, links: Mapping[str, str]) -> None:
        """Restore the digests of the messages at a checkpoint."""

    def end(self) -> None:
        """Write how the run ended, after the models were saved, unless that was written before.

        Raises:
            ResultsError: the file cannot be written.
        """

    def stop(self, error: BaseException) -> None:
        """Write which error ended the run early, without its text."""

    def say(self, peer: str) -> Signed | None:  # noqa: ARG002
        """Return this party's signed statement to another party, after it was written."""
        return None

    def hear(self, peer: str, signed: Signed | None) -> None:
        """Write the statement of another party, or why there is none."""

    def seal(self) -> None:
        """Sign the whole receipt, unless its last line is a seal."""
