"""Any torch data set together with the ids of its items, read in the order of ids that is asked."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from heterofed.data.ids import Positions
from heterofed.errors import ConfigError, IdError

_OURS = ("shuffle", "sampler", "batch_sampler", "batch_size", "drop_last", "generator", "dataset")


class Rows(NamedTuple):
    """Rows of a batch, with the ids that stood beside them in the data.

    Attributes:
        features: the inputs: [rows, columns] float32 of a table, collated items of a data set.
        labels: the labels of the same rows; None where the data hold none.
        ids: as loaded, one per row: what `Batch(ids=...)` proves the order with.
    """

    features: Any
    labels: Any
    ids: list[str]


class IndexedDataset(Dataset[Any]):
    """A map-style data set whose items are found by id.

    Args:
        dataset: with `__getitem__(position)` and `__len__`; an item may be anything that
            `default_collate` (or a `collate_fn` given later) takes.
        ids: of the items, in their order: unique strings.
        labelled: items are pairs (input, label).

    Raises:
        IdError: ids are not unique strings, or not as many as items.
        ConfigError: the data set cannot be read by position.
    """

    def __init__(
        self, dataset: Dataset[Any], ids: Iterable[str], *, labelled: bool = False
    ) -> None:
        name = type(dataset).__name__
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ConfigError(
                f"a {name} cannot be read by position; give a map-style data set, with __getitem__"
                " and __len__"
            )
        self._dataset = dataset
        self._positions = Positions(ids, name)
        self._labelled = labelled
        count = len(dataset)
        if count != len(self.ids):
            raise IdError(
                f"a {name} of {count} items was given {len(self.ids)} ids; give one per item"
            )

    @property
    def ids(self) -> list[str]:
        """Ids of all items, in their order: what `load_local_ids` should return."""
        return self._positions.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[Any, str]:
        """One item and the id that stands beside it."""
        return self._dataset[position], self.ids[position]

    def take(self, ids: Sequence[str]) -> Rows:
        """The items of some ids as one batch, in their order.

        Raises:
            MissingIdsError: some have no item.
        """
        pairs = [self[position] for position in self._positions.of(ids)]
        return _collated(self._labelled, default_collate, pairs)

    def batches(self, ids: Sequence[str], batch_size: int, **loader: Any) -> Iterator[Rows]:
        """Batches of the items of some ids, in their order; all ids are checked before the first.

        Args:
            ids: in the agreed order, such as `train_ids`.
            batch_size: rows of each batch but the last; the same at every party.
            loader: further arguments of `DataLoader`, such as `num_workers` or `collate_fn`; none
                that would change the order.

        Raises:
            MissingIdsError: some ids have no item.
            ConfigError: an argument that changes the order, or no batch size.
        """
        taken = sorted(set(loader) & set(_OURS))
        if taken:
            raise ConfigError(
                f"batches({taken[0]}=...): the order of rows is agreed between the parties and"
                " cannot be changed here; let the Host's shuffle=True shuffle it"
            )
        sizes = [len(each) for each in self._positions.chunks(ids, batch_size)]
        collate = loader.pop("collate_fn", default_collate)
        positions = iter(self._positions.of(ids))
        items = DataLoader(
            self,
            batch_sampler=[list(itertools.islice(positions, size)) for size in sizes],
            collate_fn=functools.partial(_collated, self._labelled, collate),
            # Its own generator: else it would draw from the stream that dropout masks come from.
            generator=torch.Generator().manual_seed(0),
            **loader,
        )
        return iter(items)


def _collated(labelled: bool, collate: Any, pairs: Sequence[tuple[Any, str]]) -> Rows:
    """A batch of items with their ids; of the module, since workers may have to import it."""
    items, ids = [item for item, _ in pairs], [each for _, each in pairs]
    if not labelled:
        return Rows(collate(items), None, ids)
    features, labels = collate(items)
    return Rows(features, labels, ids)
