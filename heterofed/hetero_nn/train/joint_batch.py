"""Receives one batch of every party at the Host, and checks that all have the same rows."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from heterofed.compute.autograd import device_of
from heterofed.compute.batch import Batch, rows_of
from heterofed.compute.features import FeatureBatch
from heterofed.compute.leaves import Leaves
from heterofed.compute.tensors import check_finite, confirm_finite, named, restore, unpack
from heterofed.compute.transfer import LateCheck, on_gpu, to_device
from heterofed.errors import BatchCountError, HeteroFedError, RowCountError
from heterofed.hetero_nn.sites.merging import Part, merged, rows_of_each
from heterofed.hetero_nn.sites.rows_at_host import RowsOfSites
from heterofed.hetero_nn.train.row_order import RowOrder
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail, Peer
from heterofed.privacy.masking import masked_sum
from heterofed.protocol.messages import EndOfFeatures, Features, Message

MASKED_SUM = "masked_sum"
"""The key of all Collaborators in a projection, if the Host gets only their sum."""


class Relay(Protocol):
    """Receives the features of a batch, and relays what Collaborators tell each other before."""

    def take_all(self, *kinds: type[Message]) -> dict[str, Mail]:
        """Receive one message of each Collaborator, as `Party.take_all` does."""


@dataclass(slots=True)
class Received:
    """The features of one batch of one Collaborator.

    Attributes:
        key: the key of the features in projections; parties of one key have one leaf.
        rows: the rows of the batch that are at the party, int64; None means all of them.
        lent: the tensors that user code gets in training, if gradients are sent back.
        work: the seconds that the batch occupied the party (as it reports) or the link, whichever
            is more.
    """

    peer: Peer
    features: FeatureBatch
    work: float = 0.0
    key: str = ""
    rows: Tensor | None = None
    lent: dict[str, Tensor] | None = None

    @property
    def given(self) -> dict[str, Tensor]:
        """Return the tensors that user code gets, by name."""
        return self.features.tensors if self.lent is None else self.lent

    def part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of tensors, such as gradients, that belongs to the party's rows."""
        return dict(tensors) if self.rows is None else rows_of_each(tensors, self.rows)


@dataclass(slots=True)
class JointBatch:
    """The Host's own batch and the features of the same rows that the others sent.

    Attributes:
        confirm: raises a `NonFiniteError` if the Host's own features on a GPU hold NaN or infinity.
            It waits until they are computed, so it is called after the GPU has got more work.
    """

    mine: Batch
    theirs: list[Received]
    confirm: Callable[[], None]
    sums: bool = False

    def projection(self, host: str, keep: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Return the features by feature key: the Host's first, if any, and then in task order.

        If the Host gets only the sum of the Collaborators' features, its key is `MASKED_SUM`. The
        features of all sites of a role are one value, under the role's key.

        Args:
            host: the Host's feature key.
            keep: which rows to keep, by feature key; the features of all other rows become zero.
        """
        projection = {} if self.mine.features is None else {host: self.mine.features}
        for each in self.theirs:
            tensors = each.given
            if keep is not None:
                tensors = kept(tensors, keep[each.key])
            projection[each.key] = restore(each.features.layout, tensors)
        return projection

    def by_name(self) -> dict[str, FeatureBatch]:
        """Return the features by party, with those of a role's sites under the key of the role."""
        return {each.peer.name if self.sums else each.key: each.features for each in self.theirs}

    def release(self) -> None:
        """Release the tensors even if the object is still referenced, because the next ones may be
        large.
        """
        self.mine = Batch(None)
        for each in self.theirs:
            each.features.tensors.clear()
            each.lent = None
        self.theirs.clear()


def telling_what_came(projection: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Add the form of each party's features as a note to errors that user code raises in this
    block.
    """
    return _Telling(projection)


class _Telling:
    """The block of `telling_what_came`; a class, because each batch enters one."""

    __slots__ = ("_given",)

    def __init__(self, projection: Mapping[str, Any]) -> None:
        self._given = dict(projection)  # user code may change it

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not self._given or not isinstance(error, Exception) or isinstance(error, HeteroFedError):
            return
        with suppress(Exception):  # user code may have changed more than that
            forms = (f"{name}: {form_of(features)}" for name, features in self._given.items())
            error.add_note(f"heterofed: the features given were {'; '.join(forms)}")


def form_of(features: Any) -> str:
    """Return the names, dtypes and shapes of features, without values."""
    tensors = named(features, "features")[1]
    each = (f"{name} {of.dtype} {list(of.shape)}".strip() for name, of in tensors.items())
    return ", ".join(each).replace("torch.", "")


def joint_batches(
    party: Party,
    own: Iterator[Batch],
    hook: str,
    model: nn.Module | None,
    order: RowOrder,
    first: int = 0,
    *,
    relay: Relay | None = None,
    sites: RowsOfSites | None = None,
    sums: bool = False,
) -> Iterator[JointBatch]:
    """Yield the Host's own batches together with those of all Collaborators.

    Args:
        party: the Host.
        own: the Host's own batches.
        hook: the name of the hook that yields them, for errors.
        model: the model on whose device the batches of a label-only Host are put.
        order: compares the ids of the rows.
        first: the number of the first batch.
        relay: receives the messages, and relays what Collaborators tell each other before them.
        sites: knows which rows are at which site, if roles have sites.
        sums: whether the features are masked and summed.

    Raises:
        BatchCountError, RowCountError: the numbers of batches or rows differ. The message names the
            party and both counts; the batch is not used.
        RowOrderError: the rows of a party have other ids, or another order.
        NonFiniteError: a party sent NaN or infinity.
    """
    matched = functools.partial(_matched, party, order, sites, hook)
    # One parameter shows where the model is, also after it was moved.
    parameter = {} if model is None else dict(itertools.islice(model.named_parameters(), 1))
    for number in itertools.count(first):
        mine = next(own, None)  # comes before the wait, because the others compute at the same time
        mails = (relay or party).take_all(Features, EndOfFeatures)
        _check_counts(party, mine, mails, number)
        if mine is None:
            party.batch = None
            return
        elsewhere = _rows_elsewhere(mails) if sites is None else sites.count(number)
        rows = rows_of(mine, hook, elsewhere)
        features = {} if mine.features is None else named(mine.features, hook)[1]
        joint = JointBatch(mine, [], _confirmed(features, f"what {hook} yielded", party.name))
        device = device_of(features or parameter, None)
        proof = order.proof(mine.ids, number, rows, hook)
        del features
        for peer in party.peers.values():
            mail = mails.pop(peer.name)
            key, here = matched(number, peer, mail.of(Features), mine.ids, proof, rows)
            joint.theirs.append(_unpacked(party, peer, mail, device, key, here))
            del mail
        del mine
        if sums:
            summed(joint, party.phase)
        merge(joint, rows)
        yield joint
        joint.release()


def _confirmed(features: dict[str, Tensor], what: str, party: str) -> Callable[[], None]:
    """Refuse NaN and infinity in the Host's own features; those on a GPU when the result is
    called.
    """
    if on_gpu(features):
        return functools.partial(confirm_finite, LateCheck(features), what, party)
    check_finite(features, what, party)
    return _nothing


def _nothing() -> None:
    """Confirm what was checked before."""


def _matched(
    party: Party,
    order: RowOrder,
    sites: RowsOfSites | None,
    hook: str,
    number: int,
    peer: Peer,
    message: Features,
    ids: Sequence[str] | None,
    proof: bytes | None,
    rows: int,
) -> tuple[str, Tensor | None]:
    """Check that a Collaborator has the same rows of a batch.

    Returns:
        The key of its features in projections, and its rows; None means all of them.

    Raises:
        RowCountError, RowOrderError: it has other rows.
    """
    here = None if sites is None else sites.rows(peer.name, number)
    if sites is not None and sites.count(number) != rows:
        raise RowCountError(
            f"batch {number} of round {party.round} has {rows} rows at {party.name} and"
            f" {sites.count(number)} in self.batches, which the sites of a role go by; yield one"
            " batch for each of self.batches(ids)",
            party=party.name,
            numbers=(rows, sites.count(number)),
        )
    if here is not None:
        rows = len(here)
        if ids is not None:
            proof = order.proof([ids[at] for at in here.tolist()], number, rows, hook)
    if message.rows != rows:
        raise RowCountError(
            f"batch {number} of round {party.round} has {message.rows} rows at"
            f" {peer.name} and {rows} at {party.name}; use the same batch size everywhere",
            party=peer.name,
            numbers=(message.rows, rows),
        )
    order.compare(proof, message.ids, peer.name, number)
    return peer.name if sites is None else sites.key(peer.name), here


def _rows_elsewhere(mails: Mapping[str, Mail]) -> int | None:
    return next((mail.of(Features).rows for mail in mails.values()), None)


def _unpacked(
    party: Party,
    peer: Peer,
    mail: Mail,
    device: torch.device | None,
    key: str,
    rows: Tensor | None,
) -> Received:
    message = mail.of(Features)
    with party.encoding(peer, "received"):
        coding = peer.session.feature_coding
        tensors = unpack(message.tensors, mail.payload, peer.name, coding=coding)
        # In main memory, where nothing has to be waited for.
        check_finite(tensors, "the features", peer.name)
        tensors = {name: to_device(each, device) for name, each in tensors.items()}
    party.account.reported(party.phase, peer.name, message.busy / 1e6)
    work = max(message.busy / 1e6, mail.moving)
    return Received(peer, FeatureBatch(message.layout, tensors), work, key, rows)


def kept(tensors: Mapping[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
    """Return the tensors with zeros in the rows that `keep`, bools of shape [rows], excludes."""
    return {
        name: each.masked_fill(~keep.to(each.device).reshape(-1, *[1] * (each.dim() - 1)), 0)
        for name, each in tensors.items()
    }


def leaves_of(batch: JointBatch) -> list[tuple[Received, Leaves]]:
    """Make the received tensors leaves of the graph; parties with the same key share a leaf."""
    shared: dict[str, Leaves] = {}
    for each in batch.theirs:
        if each.key not in shared:
            trainable = each.peer.session.trainable
            shared[each.key] = Leaves(each.features.tensors, trainable=trainable)
        each.lent = shared[each.key].lent
    return [(each, shared[each.key]) for each in batch.theirs]


def merge(batch: JointBatch, rows: int) -> None:
    """Replace the features of the sites of each role by those of all rows, as one leaf.

    Raises:
        FeatureError: the sites' features differ in form.
    """
    for role in dict.fromkeys(each.key for each in batch.theirs if each.rows is not None):
        sites = [(each, each.rows) for each in batch.theirs if each.key == role]
        parts = [
            Part(each.peer.name, where, each.features) for each, where in sites if where is not None
        ]
        whole = merged(parts, rows)
        for each, _ in sites:
            each.features = whole


def summed(batch: JointBatch, phase: str) -> None:
    """Replace the masked features of each party by their sum, as one tensor and one leaf.

    Raises:
        RemoteProtocolError: the shapes differ. The error names the first party whose shape is not
            the most frequent one.
    """
    shapes = {each.peer.name: tuple(each.features.tensors[""].shape) for each in batch.theirs}
    # The first one, if several are equally frequent.
    ((usual, _count),) = Counter(shapes.values()).most_common(1)
    for name, shape in shapes.items():
        if shape != usual:
            what = f"sent masked features of shape {list(shape)}, others of {list(usual)}"
            raise unlawful(name, phase, f"{what}: a sum is of one shape at all parties")
    parts = [each.features.tensors[""] for each in batch.theirs]
    total = masked_sum(parts, torch.get_default_dtype())
    for each in batch.theirs:
        each.features, each.key = FeatureBatch("tensor", {"": total}), MASKED_SUM
    batch.sums = True


def _check_counts(party: Party, mine: Batch | None, mails: dict[str, Mail], number: int) -> None:
    """Check that either all parties or none have a batch of this number."""
    for name, mail in mails.items():
        ended = isinstance(mail.message, EndOfFeatures)
        if ended == (mine is None):
            continue
        theirs, ours = (number, number + 1) if ended else (number + 1, number)
        more = party.name if ended else name
        raise BatchCountError(
            f"round {party.round} has {theirs} batches at {name} and {ours} at {party.name}"
            f" ({more} has at least that many); use the same batch size, and treat the last batch"
            " alike",
            party=name,
            numbers=(theirs, ours),
        )
