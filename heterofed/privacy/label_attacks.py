"""Attacks that infer labels from the gradients that a Collaborator receives.

The Host runs each attack on exactly the gradients that it sends, to measure how well a curious
Collaborator could infer the labels. Labels are class numbers. With more than two classes, each
class is attacked against the rest, and the mean is reported.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from heterofed.errors import ConfigError
from heterofed.privacy.rows import vectors
from heterofed.privacy.scores import aucs

MOST_CLASSES = 1000
"""Labels with more different values than this are treated as amounts and not as classes."""


LABEL_NAMES = ("label", "labels", "target", "targets", "y")
"""The names of the labels in a mapping that has something else beside them, such as weights."""


def class_numbers(labels: object, rows: int | None = None) -> Tensor | None:
    """Convert labels to class numbers from 0 if possible.

    Args:
        labels: a tensor [rows] or [rows, 1] of whole numbers, bools, or whole floats; or one-hot
            labels [rows, classes]; or a mapping with such a tensor under one of `LABEL_NAMES`, and
            whatever else beside it.
        rows: the expected number of rows.

    Returns:
        An int64 tensor [rows], or None for other labels: regression targets, other mappings,
        negative numbers, or more than `MOST_CLASSES` classes.
    """
    if isinstance(labels, Mapping):
        named = [labels[name] for name in LABEL_NAMES if name in labels]
        labels = named[0] if len(named) == 1 else None
    if not isinstance(labels, Tensor) or labels.is_complex() or labels.dim() not in {1, 2}:
        return None
    found = labels.detach()
    if found.dim() == 2:
        if found.shape[1] == 1:
            found = found[:, 0]
        elif bool(((found == 0) | (found == 1)).all() & (found.sum(1) == 1).all()):
            found = found.argmax(1)
        else:
            return None
    numbers = found.to(torch.int64)
    if rows is not None and len(numbers) != rows:
        return None
    valid = bool(((numbers.to(torch.float64) == found.to(torch.float64)) & (numbers >= 0)).all())
    few = valid and (len(numbers) <= MOST_CLASSES or len(_classes_of(numbers)) <= MOST_CLASSES)
    return numbers if few else None


def numeric_targets(labels: object) -> Tensor | None:
    """Return labels that are no classes as floats of shape [rows, labels]; None for all others.

    Whole numbers count as amounts if most rows of a batch have one of their own.
    """
    if isinstance(labels, Mapping):
        named = [labels[name] for name in LABEL_NAMES if name in labels]
        labels = named[0] if len(named) == 1 else None
    if not isinstance(labels, Tensor) or not labels.is_floating_point():
        return None
    if labels.dim() not in {1, 2} or not bool(labels.isfinite().all()):
        return None
    rows = labels.detach().reshape(len(labels), -1)
    numbers = class_numbers(labels)
    if numbers is not None and len(_classes_of(numbers)) <= max(FEW_AMOUNTS, len(numbers) // 2):
        return None
    return rows


FEW_AMOUNTS = 4
"""The most different whole numbers of a batch that always count as classes."""


def numbered_anew(labels: Tensor) -> tuple[list[int], Tensor]:
    """Return the classes that occur, in ascending order, and the labels as positions in that list.

    Counting and comparing by class uses the positions, because class numbers may be large.
    """
    classes, places = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return classes.tolist(), places


def flat(gradients: Tensor) -> Tensor:
    """Return gradients as one row per sample, of shape [rows, d], in float32 or wider."""
    rows = vectors(gradients.detach())
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def one_hot(labels: Tensor) -> Tensor:
    """Return bools of shape [rows, n], a column per class, or only class 1's for two classes."""
    classes = max(2, int(labels.max()) + 1) if len(labels) else 2
    return labels[:, None] == torch.arange(classes, device=labels.device)[(classes == 2) :]


def norm_leak(gradients: Tensor, labels: Tensor) -> Tensor:
    """Infer labels from the norms of gradients (Li et al., ICLR 2022, section 3.1).

    Samples that a model predicts with confidence have small gradients. The rarer class is learnt
    later, so its gradients are larger.

    Args:
        gradients: the gradients as they are sent, of shape [rows, ...].
        labels: the class numbers, int64 of shape [rows].

    Returns:
        The AUC of each class, of shape [n]; it is below 0.5 for a class with smaller gradients.
    """
    positive = one_hot(labels)
    return aucs(flat(gradients).norm(dim=1)[:, None].expand(positive.shape), positive)


def cosine_leak(
    gradients: Tensor,
    labels: Tensor,
    *,
    clean: Tensor | None = None,
    known: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Infer labels from the directions of gradients (Li et al., ICLR 2022, section 3.2).

    Gradients of one class have similar directions. The attacker knows `known` samples of each class
    and scores all others by the cosine with their mean direction.

    Args:
        gradients: the gradients as they are sent, of shape [rows, ...].
        labels: the class numbers, int64 of shape [rows].
        clean: the gradients before a defence, for a stronger attacker who knows the undefended
            gradients of its known samples; None for none.
        known: the number of samples per class that the attacker knows; they are not scored.
        generator: the random generator that chooses the known samples.

    Returns:
        The AUC of each class, of shape [n]; NaN for a class with too few samples.
    """
    sent = F.normalize(flat(gradients), dim=1)
    source = sent if clean is None else F.normalize(flat(clean), dim=1)
    positive = one_hot(labels)
    result = torch.full((positive.shape[1],), torch.nan, dtype=torch.float64, device="cpu")
    for number in range(positive.shape[1]):
        members = positive[:, number].nonzero()[:, 0]
        if len(members) <= known:
            continue
        order = torch.randperm(len(members), generator=generator, device="cpu")[:known]
        chosen = members[order.to(members.device)]
        others = torch.ones(len(sent), dtype=torch.bool, device=sent.device)
        others[chosen] = False
        score = sent[others] @ source[chosen].mean(0)
        result[number] = aucs(score[:, None], positive[others, number][:, None])[0]
    return result


def spectral_leak(gradients: Tensor, labels: Tensor) -> Tensor:
    """Infer labels from the first principal component of the gradients, without known labels.

    The method follows Tran et al. (NeurIPS 2018) and its use on split learning by Sun et al.
    (2022). The sign of a component is arbitrary; it is chosen so that the longer tail is positive.

    Args:
        gradients: the gradients as they are sent, of shape [rows, ...].
        labels: the class numbers, int64 of shape [rows].

    Returns:
        The AUC of each class, of shape [n].
    """
    rows = flat(gradients).to(torch.float64)
    centred = rows - rows.mean(0)
    if centred.shape[1] <= centred.shape[0]:
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        score = centred @ vectors[:, -1]
    else:
        _, vectors = torch.linalg.eigh(centred @ centred.T)
        score = vectors[:, -1]
    if float((score**3).sum()) < 0:
        score = -score
    positive = one_hot(labels)
    return aucs(score[:, None].expand(positive.shape), positive)


@dataclass(frozen=True, slots=True)
class Completion:
    """The quality of inferred labels, on samples whose labels the attacker did not know.

    Attributes:
        auc: the mean AUC over the classes, each against the rest.
        accuracy: the share of labels that were inferred correctly.
        majority: the accuracy of always guessing the most frequent class.
    """

    auc: float
    accuracy: float
    majority: float


def model_completion(
    inputs: Tensor,
    labels: Tensor,
    *,
    known: int = 40,
    bottom: nn.Module | None = None,
    steps: int = 60,
    pseudo_rounds: int = 2,
    seed: int = 0,
) -> Completion:
    """Infer labels from a few known ones, by training a head on the trained half (Fu et al. 2022).

    This is the passive model completion of "Label Inference Attacks Against Vertical Federated
    Learning" (USENIX Security 2022). Their semi-supervised MixMatch is replaced by pseudo-labels of
    the most confident samples of each class.

    Args:
        inputs: embeddings, or inputs of `bottom`, of shape [rows, ...].
        labels: the true class numbers, int64 of shape [rows].
        known: the number of labels that the attacker knows, drawn evenly from the classes.
        bottom: the attacker's trained half, of which a copy is trained with the head; or None.
        steps: the steps of Adam in each round.
        pseudo_rounds: the number of rounds of training with pseudo-labels.
        seed: the seed of the choice of known labels and of the head.

    Raises:
        ConfigError: there are fewer than two classes, or all labels would be known.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    if len(_classes_of(labels)) < 2 or known >= len(labels):
        raise ConfigError(
            f"there are {len(labels)} rows of {len(_classes_of(labels))} classes; give model"
            f" completion two classes and more than the {known} known labels"
        )
    labels = labels.cpu()
    cpu = torch.device("cpu")  # whatever the user's default device is
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), cpu:
        torch.default_generator.manual_seed(seed)
        given = _evenly(labels, known)
        attacker = _Attacker(inputs.detach().cpu(), bottom, classes)
        targets, weights = labels.clone(), torch.zeros(len(labels))
        weights[given] = 1.0
        attacker.train(targets, weights, steps)
        for _ in range(pseudo_rounds):
            chances = attacker.predict()
            targets = torch.where(given, labels, chances.argmax(1))
            weights = _surest(chances, given)
            attacker.train(targets, weights, steps)
        chances = attacker.predict()
    hidden = ~given
    truth = labels[hidden]
    every = torch.arange(classes, device=truth.device)
    positive = one_hot(truth) if classes == 2 else truth[:, None] == every
    scores = chances[hidden][:, 1:] if classes == 2 else chances[hidden]
    return Completion(
        auc=float(aucs(scores, positive).nanmean()),
        accuracy=float((chances[hidden].argmax(1) == truth).double().mean()),
        majority=float(truth.bincount().max() / len(truth)),
    )


def _classes_of(labels: Tensor) -> Tensor:
    """Return the distinct labels in ascending order."""
    found: Tensor = labels.unique()  # type: ignore[no-untyped-call]
    return found


def _evenly(labels: Tensor, known: int) -> Tensor:
    """Choose `known` rows as evenly from the classes as possible, and return bools of shape
    [rows].
    """
    order = torch.randperm(len(labels))
    within = torch.empty_like(labels)
    for each in _classes_of(labels):
        members = order[labels[order] == each]
        within[members] = torch.arange(len(members))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[within[order].sort(stable=True).indices][:known]] = True
    return chosen


def _surest(chances: Tensor, given: Tensor) -> Tensor:
    """Return weights: 1 for known labels, 0.3 for the more confident half of each predicted
    class.
    """
    sure, guess = chances.max(1)
    weights = torch.zeros(len(chances))
    for each in _classes_of(guess):
        members = guess == each
        weights[members & (sure >= sure[members].median())] = 0.3
    weights[given] = 1.0
    return weights


class _Attacker:
    """A bottom model (or none) and a linear head, trained on weighted labels."""

    def __init__(self, inputs: Tensor, bottom: nn.Module | None, classes: int) -> None:
        self._bottom = copy.deepcopy(bottom).cpu() if bottom is not None else nn.Identity()
        self._bottom.train(False)  # dropout is off, because there is little to learn from
        rows = flat(self._bottom(inputs))
        self._shift, self._scale = rows.mean(0), rows.std(0).clamp_min(1e-6)
        self._head = nn.Linear(rows.shape[1], classes, dtype=rows.dtype)
        self._inputs = inputs
        trained = [
            {"params": list(self._head.parameters()), "lr": 0.05, "weight_decay": 1e-2},
            {"params": list(self._bottom.parameters()), "lr": 0.001},
        ]
        self._optimizer = torch.optim.Adam([each for each in trained if each["params"]])

    def train(self, targets: Tensor, weights: Tensor, steps: int) -> None:
        """Train on the rows whose weight is above 0; classes are balanced by their weight."""
        used = weights > 0
        inputs, targets, weights = self._inputs[used], targets[used], weights[used]
        balance = 1 / targets.bincount(weights)[targets].clamp_min(1e-6)
        weights = weights * balance
        for _ in range(steps):
            self._optimizer.zero_grad()
            losses = F.cross_entropy(self._logits(inputs), targets, reduction="none")
            ((losses * weights).sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    @torch.no_grad()
    def predict(self) -> Tensor:
        """Return the class probabilities of all rows, of shape [rows, classes]."""
        return self._logits(self._inputs).softmax(1)

    def _logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of rows of inputs, which are standardised before the head."""
        rows = vectors(self._bottom(inputs))
        logits: Tensor = self._head((rows - self._shift) / self._scale)
        return logits
