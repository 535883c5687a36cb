"""Explains the numbers of a run to people who make decisions and do not train models."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from heterofed.privacy.findings import WORDS
from heterofed.report.model import Level
from heterofed.reporting.units import value_shown

METRICS = {
    "loss": "what training makes smaller; only its course says something",
    "accuracy": "share of rows that are predicted right",
    "balanced_accuracy": "mean over the classes of the share that is predicted right",
    "auc": "chance that a true case gets a higher score than another row; 0.5 is guessing",
    "auroc": "chance that a true case gets a higher score than another row; 0.5 is guessing",
    "roc_auc": "chance that a true case gets a higher score than another row; 0.5 is guessing",
    "average_precision": "mean precision over all recalls; guessing gives the share of true cases",
    "pr_auc": "mean precision over all recalls; guessing gives the share of true cases",
    "gini": "2 x AUC - 1; 0 is guessing, 1 is perfect",
    "ks": "largest distance of the two classes' scores; 0 is guessing, 1 is perfect",
    "precision": "of what is flagged, the share that is true",
    "recall": "of what is true, the share that is flagged",
    "f1": "harmonic mean of precision and recall",
    "brier": "mean squared error of probabilities; 0 is perfect",
    "log_loss": "how surprised the probabilities are by what happened; 0 is perfect",
    "calibration_error": "how far probabilities are from observed shares, on average",
    "ece": "how far probabilities are from observed shares, on average",
    "rmse": "typical error, in units of the label; large ones weigh more",
    "mse": "mean squared error",
    "mae": "mean error, in units of the label",
    "r2": "share of the labels' variance that is explained; 1 is perfect, 0 a constant",
}
"""The explanations by name in lower case; a name that is not here is shown without one."""

PLAN = {
    "host": "Host: the party that has the labels",
    "collaborators": "Collaborators: the parties that have further columns",
    "max_rounds": "Most rounds: passes over the train rows (0: as many as the Host decides)",
    "shuffle": "Whether each round has an order of rows of its own",
    "checkpoint_batches": "Batches between two checkpoints within a round (0: after rounds only)",
    "batch_size": "Rows of a batch (0: each party's own affair)",
    "compress_features": "How features travel: in full, or rounded",
    "compress_gradients": "How gradients travel: in full, or rounded",
    "max_staleness": "Steps by which a Collaborator's weights may be behind (0: exact)",
    "loss_reduction": "How the loss is taken over a batch, where privacy noise depends on it",
    "fusion": "What the Host gets: each party's features, or only their sum",
    "credit": "Batches that a Collaborator may send ahead",
    "calculation_timeout": "Longest silence of a party that computes, in seconds",
    "schedule_timeout": "Longest silence of a party that does not compute, in seconds",
    "wait_for_peers": "How long all wait for a party that is lost, in seconds",
    "psi_protocol": "How common ids are found",
    "psi_bits": "Size of the RSA keys for that",
    "psi_parties": "Whether pairs of parties learn their common ids, or only all together",
    "id_keys": "By how many keys rows are matched, one after another",
    "final_rows": "Test rows on which the best models are looked at once more in the end",
    "max_peer_ids": "Most ids of one party that may be intersected",
    "max_batch_bytes": "Most bytes of one batch",
    "announced_split": "Whether the Host says which rows are for training and which for tests",
    "averaging": "How models are averaged, if parties with the same columns train",
    "sites": "Roles whose rows are divided among several parties",
    "sites_overlap": "What is done about ids that two sites of a role have",
    "sites_share": "What the sites of a role add up: gradients of each batch, or weights",
    "sites_every": "Batches between two averages of the sites' weights",
    "take_home": "Whether the Host may make a model that needs its own columns only",
    "agreed": "What the parties agreed on beyond that",
    "limits": "Limits on what may leave a party",
    "recording": "Whether a party may keep what others send, to replay its own side",
}
"""The explanation of every field of the plan but the seed, which no report has."""

PHASES = {
    "join": "the parties find each other",
    "prepare": "ids are loaded, models are made",
    "psi": "common ids are found, and no others are shown",
    "split": "common rows are split into train and test",
    "resume": "a run goes on from its last checkpoint",
    "train": "features and gradients travel, models learn",
    "test": "the model is tested",
    "checkpoint": "all parties save how far they are",
    "finish": "last models are saved, goodbyes are said",
}

AVERAGING_PHASES = PHASES | {
    "prepare": "models are made and compared",
    "train": "each party trains on its own rows, updates are averaged",
}
"""The same for parties with the same columns, whose models are averaged."""


def phase_words(averages: bool) -> dict[str, str]:
    """Return what happens in each phase.

    Args:
        averages: whether the models of parties with the same columns are averaged.
    """
    return AVERAGING_PHASES if averages else PHASES


LEVELS: tuple[tuple[float, Level], ...] = ((0.8, "all"), (0.4, "much"), (0.2, "some"))
"""The severity from which each level applies; the words in the summary use the same steps."""

LEVEL_WORDS: dict[Level, str] = {
    "all": "can read",
    "much": "can guess much of",
    "some": "can guess some of",
    "low": "learns little of",
}

PROTECTS = {
    "gradients": "noise or scaling on the gradients that are sent",
    "labels": "some labels are turned before training",
    "embeddings": "noise on the features that are sent, or less of the inputs in them",
    "weights": "noise on the steps of this party's own weights",
}
"""The effect of each defence, by what it protects."""


class Guarantee(NamedTuple):
    """The subject of each epsilon of `privacy.csv`."""

    title: str
    covers: str
    not_covered: str


EPSILONS = {
    "eps_labels": Guarantee(
        "Each label",
        "each single label of this party, against everything that is ever sent, in all rounds",
        "metrics on true labels; that labels of a kind of person can be learnt",
    ),
    "eps_embeddings": Guarantee(
        "Each row of this party",
        "one person's row at this party, in all features that were sent so far: in training, tests"
        " and predictions of all runs of the task",
        "other parties' rows; labels",
    ),
    "eps_weights": Guarantee(
        "Each row, in the trained weights",
        "what one person's row changes in the trained weights of all parties, if all of them train"
        " with such noise",
        "what the parties see of one another while training",
    ),
    "eps_parties": Guarantee(
        "Each party, in the averages",
        "whether one party trained at all, in the averages of all runs of the task, if the Host"
        " added the noise",
        "what the Host sees of each party's update; the numbers that its hooks return",
    ),
}


def part_of(*, is_host: bool, role: str, averages: bool) -> str:
    """Return what a party brings to a task.

    Args:
        is_host: whether it is the Host.
        role: the role of which it is a site; empty if it is none.
        averages: whether the task is a horizontal one.
    """
    if role:
        return f"Collaborator: has some people's rows, as a site of {role}"
    if averages:
        return "Host: averages the models" if is_host else "Collaborator: has rows of its own"
    return "Host: has the labels" if is_host else "Collaborator: has further columns"


def meaning_of(metric: str) -> str:
    """Return an explanation of a metric in words; empty if its name is not a well-known one."""
    plain = re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")
    return METRICS.get(plain) or METRICS.get(plain.removeprefix("test_"), "")


def level_of(severity: float) -> Level:
    """Return the level of leakage, in four steps."""
    return next((level for least, level in LEVELS if severity >= least), "low")


def leak_words(attack: str) -> tuple[str, str]:
    """Return what an attack measures and what it reads, or its name if this version does not know
    it.
    """
    return WORDS.get(attack, (attack, "what was sent"))


def odds(epsilon: float | None) -> str:
    """Return an epsilon as a sentence about what somebody can infer about one person."""
    if epsilon is None:
        return "There is no limit: something has left without this protection."
    if epsilon > 8:
        return (
            "No meaningful limit: with an epsilon this large one person's data may change what was"
            " sent beyond doubt."
        )
    factor = math.exp(epsilon)
    return (
        "Whatever is sent is at most"
        f" {value_shown(round(factor, 1 if factor < 10 else 0))} times as likely with one person's"
        " data as with other data in their place (up to a small chance, delta, where there is one)."
    )
