"""Keeps the secret from which the random choices of label DP derive: one secret for each task.

A second, independent randomised response about the same label would cost its epsilon again, and
several of them could be averaged. A peer that makes a Host start anew could obtain as many as it
likes. So the secret is made once, is kept in `$HETEROFED_HOME`, and survives runs, results folders
and processes. The file also records the epsilons with which the secret was used: each of them makes
independent choices, so their epsilons add up.
"""

from __future__ import annotations

import json
from pathlib import Path

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import ConfigError
from heterofed.files import file_lock, private_folder, put_in_place, read
from heterofed.privacy.label_dp import RandomisedResponse

LOCK_SECONDS = 30.0
"""The longest time in seconds to wait for another process of this party that uses the file."""


def with_kept_coins(
    response: RandomisedResponse, ledger: Path, task_id: str, party: str, start: bytes
) -> RandomisedResponse:
    """Return the response with the task's secret, unless the user gave it a secret.

    Args:
        response: the response as the user made it.
        ledger: the folder of the records that cover all runs.
        task_id: the id of the task.
        party: the feature key of the party that owns the labels.
        start: 32 secret random bytes, which become the task's secret if it has none yet.

    Raises:
        ConfigError: the file is damaged. A new secret would reveal the labels a second time.
    """
    if response.given:
        return response
    folder = private_folder(ledger, "coins")
    digest = keyed_digest(b"", "label coins", [task_id, party]).hex()[:32]
    path = folder / f"{digest}.json"
    with file_lock(path.with_suffix(".json.lock"), timeout=LOCK_SECONDS):
        secret, used = _kept(path) or (start, [])
        strength = (response.label_set, response.epsilon, response.classes)
        if strength not in used:
            used.append(strength)
            text = json.dumps({"secret": secret.hex(), "used": used}).encode()
            put_in_place(path, lambda file: file.write(text))
    before = [each for each in used if each != strength and each[0] == response.label_set]
    return response.with_secret(secret, spent=sum(epsilon for _, epsilon, _ in before))


def _kept(path: Path) -> tuple[bytes, list[tuple[str, float, int]]] | None:
    """Return the secret and the uses that a file holds, or None if there is no file.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        kept = json.loads(read(path))
        secret = bytes.fromhex(kept["secret"])
        used = [(str(name), float(each), int(classes)) for name, each, classes in kept["used"]]
        if len(secret) != 32:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}, which holds the secret of label_dp, is damaged or not a file of yours:"
            " restore a copy of it; if you remove it, the labels are released a second time, which"
            " costs their epsilon again"
        ) from None
    return secret, used
