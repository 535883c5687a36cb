"""A torch data set together with the ids of its items, which is read in the order of given ids."""

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
    """The rows of a batch, with the ids that the data have for them.

    Attributes:
        features: the inputs: a [rows, columns] float32 tensor of a table, or the collated inputs
            of a data set.
        labels: the labels of the same rows, or None if the data have none.
        ids: the ids of the rows as read from the data, for `Batch(ids=...)`.
    """

    features: Any
    labels: Any
    ids: list[str]


class IndexedDataset(Dataset[Any]):
    """A map-style data set whose items are found by id.

    Args:
        dataset: a data set with `__getitem__(position)` and `__len__`. Its items may be anything
            that `default_collate` (or the `collate_fn` of `batches`) accepts.
        ids: the ids of the items in order, which must be unique strings.
        labelled: whether the items are pairs (input, label).

    Raises:
        IdError: the ids are not unique strings, or their number is not that of the items.
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
        """The ids of all items in order, which `load_local_ids` should return."""
        return self._positions.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[Any, str]:
        """Return one item and its id."""
        return self._dataset[position], self.ids[position]

    def take(self, ids: Sequence[str]) -> Rows:
        """Return the items of `ids` as one batch, in the order of `ids`.

        Raises:
            MissingIdsError: some ids have no item.
        """
        pairs = [self[position] for position in self._positions.of(ids)]
        return _collated(self._labelled, default_collate, pairs)

    def batches(self, ids: Sequence[str], batch_size: int, **loader: Any) -> Iterator[Rows]:
        """Yield the items of `ids` in batches, in the order of `ids`.

        All ids are checked before the first batch.

        Args:
            ids: ids in the agreed order, such as `train_ids`.
            batch_size: the number of rows in each batch but the last; it must be the same at every
                party.
            loader: further arguments of `DataLoader`, such as `num_workers` or `collate_fn`, except
                for those that would change the order.

        Raises:
            MissingIdsError: some ids have no item.
            ConfigError: an argument would change the order, or `batch_size` is no whole number from
                1 on.
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
            # The loader gets its own generator, so that it does not advance torch's global one.
            generator=torch.Generator().manual_seed(0),
            **loader,
        )
        return iter(items)


def _collated(labelled: bool, collate: Any, pairs: Sequence[tuple[Any, str]]) -> Rows:
    """Collate items with their ids. The function is at module level for workers to import."""
    items, ids = [item for item, _ in pairs], [each for _, each in pairs]
    if not labelled:
        return Rows(collate(items), None, ids)
    features, labels = collate(items)
    return Rows(features, labels, ids)
