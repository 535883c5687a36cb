"""Defines steps for columns with several tokens in a cell: free text, and lists of tags.

Both become bags for `nn.EmbeddingBag`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from heterofed.tabular.prepare.inputs import Bag, Table
from heterofed.tabular.prepare.values import words
from heterofed.tabular.prepare.work import Work

BETWEEN = re.compile(r"[\s,;|]+")
"""The characters between two tags."""


class HashText(msgspec.Struct, tag="hash_text"):
    """Hashes the words of free text, and pairs of neighbouring words, into a table of embeddings.

    Only the embeddings are learnt from the rows, so no text is kept with the model.

    Args:
        buckets: the number of buckets of the table; words in the same bucket count as one word.
        width: the width of an embedding.
        pairs: whether pairs of neighbouring words count as words too.
        columns: the columns of the step; None for all of kind text.
    """

    buckets: int = 1 << 14
    width: int = 16
    pairs: bool = True
    columns: list[str] | None = None
    names: list[str] = []

    def fit(self, work: Work) -> HashText:
        """Return the step with the names of its columns."""
        return msgspec.structs.replace(self, names=work.chosen(self.columns, ["text"], "HashText"))

    def apply(self, work: Work) -> None:
        """Hash the columns of these rows."""
        vectorizer = HashingVectorizer(
            n_features=self.buckets,
            alternate_sign=False,
            ngram_range=(1, 2 if self.pairs else 1),
            token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - no password
        )
        for name in self.names:
            work.bags[name] = Bag.of(vectorizer.transform(words(work.take(name)).fillna("")))

    @property
    def tables(self) -> dict[str, Table]:
        """Return its tables of embeddings, one for each column."""
        return {name: Table((self.buckets,), self.width) for name in self.names}


class Tags(msgspec.Struct, tag="tags"):
    """Encodes lists of tags, which may have numbers: `red;round` or `x1:0.5 x7:2`.

    Each tag of the train rows gets an embedding, which is multiplied by the tag's number divided by
    its largest number.

    Args:
        width: the width of an embedding.
        min_count: the number of train rows that a tag needs to be known; other tags are ignored.
        max_tags: the most tags that are known, the frequent ones first.
        columns: the columns of the step; None for all of kind tags.
    """

    width: int = 16
    min_count: int = 2
    max_tags: int = 100_000
    columns: list[str] | None = None
    tags: dict[str, dict[str, float]] = {}

    def fit(self, work: Work) -> Tags:
        """Return the step, fitted on the train rows."""
        chosen = work.chosen(self.columns, ["tags"], "Tags")
        return msgspec.structs.replace(
            self, tags={name: self._known(work.columns[name]) for name in chosen}
        )

    def apply(self, work: Work) -> None:
        """Read the columns of these rows."""
        for name, largest in self.tags.items():
            frame = long(work.take(name))
            codes = pd.Index(list(largest), dtype=object).get_indexer(pd.Index(frame["tag"]))
            known = codes >= 0
            codes, frame = codes[known], frame[known]
            scale = np.fromiter(largest.values(), np.float64, len(largest))
            weights = frame["number"].to_numpy() / scale[codes]
            shape = (work.rows, max(1, len(largest)))
            matrix = csr_matrix((weights, (frame["row"].to_numpy(), codes)), shape=shape)
            work.bags[name] = Bag.of(matrix)

    @property
    def tables(self) -> dict[str, Table]:
        """Return its tables of embeddings, one for each column."""
        return {name: Table((max(1, len(known)),), self.width) for name, known in self.tags.items()}

    def _known(self, column: pd.Series[Any]) -> dict[str, float]:
        """Return the largest absolute number of each known tag."""
        frame = long(column)
        counts = frame["tag"].value_counts()
        names = counts.index[counts.to_numpy() >= self.min_count][: self.max_tags]
        largest = frame["number"].abs().groupby(frame["tag"]).max()
        return {str(name): float(largest[name]) or 1.0 for name in sorted(names)}


def long(column: pd.Series[Any]) -> pd.DataFrame:
    """Return one line for each tag of each row: `row`, `tag`, `number`."""
    lists = words(column).fillna("").str.split(BETWEEN)
    tags = lists.reset_index(drop=True).explode().astype(object)
    tags = tags[tags.notna() & (tags != "")]
    parts = tags.astype(str).str.rsplit(":", n=1, expand=True).reindex(columns=[0, 1])
    number = pd.to_numeric(parts[1], errors="coerce")
    valued = number.notna() & np.isfinite(number)
    return pd.DataFrame(
        {
            "row": tags.index.to_numpy(),
            # Text after a colon that is no number belongs to the tag: `colour:red`.
            "tag": parts[0].where(valued, tags.astype(str)).to_numpy(),
            "number": number.where(valued, 1.0).to_numpy(dtype=np.float64),
        }
    )
