"""Networks are made from what their weights say, and learn through sparse tables too."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from heterofed.errors import ConfigError
from heterofed.tabular.kinds import Column
from heterofed.tabular.models import Half, HalfPlan, SparseAdamW, Top, TopPlan, make_optimizer
from heterofed.tabular.objectives import Objective, read_labels
from heterofed.tabular.prepare import Embed, Impute, Inputs, Preparation, Scale, Tags

MODELS = ["logistic", "mlp", "wide_deep", "deepfm"]
FRAME = pd.DataFrame(
    {
        "n": [float(each % 7) for each in range(60)],
        "c": [str(each % 3) for each in range(60)],
        "t": [f"a:{each % 5} b" for each in range(60)],
    }
)
LABELS = [each % 2 for each in range(60)]


@pytest.fixture(scope="module")
def preparation() -> Preparation:
    columns = [
        Column(name="n", kind="numeric"),
        Column(name="c", kind="category"),
        Column(name="t", kind="tags"),
    ]
    return Preparation.fit(FRAME, columns, [Impute(), Scale(), Embed(width=4), Tags(width=3)])


def half_of(model: Any, preparation: Preparation) -> Half:
    return Half(
        HalfPlan(model=model, outputs=1, width=5, hidden=8, dropout=0.0, preparation=preparation)
    )


def top_of(model: Any, parties: int) -> Top:
    objective = Objective(labels=read_labels(LABELS))
    return Top(
        TopPlan(model=model, parties=parties, width=5, hidden=8, dropout=0.0, objective=objective)
    )


@pytest.mark.parametrize("model", MODELS)
def test_weights_alone_make_the_model_again(model: str, preparation: Preparation) -> None:
    half, top = half_of(model, preparation), top_of(model, 2)
    inputs = preparation.apply(FRAME)
    outputs = top({"a": half(inputs), "b": half(inputs)})
    assert outputs.shape == (60, 1)

    plain = io.BytesIO()
    torch.save(half.state_dict(), plain)
    plain.seek(0)
    other, above = Half(), Top()
    other.load_state_dict(torch.load(plain, weights_only=True))
    above.load_state_dict(load(save({k: v.clone() for k, v in top.state_dict().items()})))
    assert (other.plan, above.plan) == (half.plan, top.plan)
    torch.testing.assert_close(above({"a": other(inputs), "b": other(inputs)}), outputs)


def test_weights_of_something_else_are_refused() -> None:
    state = nn.Linear(2, 2).state_dict()
    with pytest.raises(RuntimeError, match=r"Missing|Unexpected"):
        Half().load_state_dict(state)
    for bad in (b"", b"{}", b"null", b"\xff"):
        raw = torch.frombuffer(bytearray(bad), dtype=torch.uint8) if bad else torch.zeros(0)
        with pytest.raises(ConfigError, match="another model, or damaged"):
            Half().load_state_dict({"_extra_state": raw})


def test_products_of_all_pairs() -> None:
    """What parties say for their parts is what one factorization machine says of all fields."""
    from heterofed.tabular.models.top import _products

    vectors = torch.randn(6, 5, 4)  # rows, fields, width
    expected = sum((vectors[:, i] * vectors[:, j]).sum(dim=1) for i in range(5) for j in range(i))
    parts = []
    for some in (vectors[:, :2], vectors[:, 2:]):
        squares = some.square().sum(dim=(1, 2))[:, None]
        parts.append(torch.cat([some.sum(dim=1), squares], dim=1))
    torch.testing.assert_close(_products(parts)[:, 0], expected)


def test_bags_and_codes_count_as_fields(preparation: Preparation) -> None:
    half = half_of("deepfm", preparation)
    assert half.fields is not None
    total, squares = half.fields(preparation.apply(FRAME))
    assert total.shape == squares.shape == (60, 5)


def test_sparse_tables_learn_by_their_own_optimizer() -> None:
    table = nn.Embedding(1000, 4, sparse=True)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(8, 1))
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0.0)
    assert isinstance(optimizer, SparseAdamW)
    before = table.weight.detach().clone()
    model(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    moved = (table.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == [1, 2]

    kept = optimizer.state_dict()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.load_state_dict(kept)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
    optimizer.zero_grad()
    model(torch.tensor([[3, 3]])).sum().backward()
    optimizer.step()
    assert (table.weight[3] != before[3]).all()


def test_a_wide_column_gets_a_sparse_table() -> None:
    frame = pd.DataFrame({"c": [str(each) for each in range(1200)] * 2})
    columns = [Column(name="c", kind="category")]
    wide = Preparation.fit(frame, columns, [Embed(min_count=1)])
    optimizer = make_optimizer(half_of("mlp", wide), lr=0.1, weight_decay=0.0)
    assert isinstance(optimizer, SparseAdamW)


def test_taking_rows_takes_all_kinds_of_inputs(preparation: Preparation) -> None:
    inputs = preparation.apply(FRAME)
    rows = torch.tensor([7, 3, 3])
    some, same = inputs.take(rows), preparation.apply(FRAME.iloc[rows.tolist()])
    assert isinstance(some, Inputs)
    assert len(some) == 3
    torch.testing.assert_close(some.dense, same.dense)
    torch.testing.assert_close(some.codes["c"], same.codes["c"])
    torch.testing.assert_close(some.bags["t"].tokens, same.bags["t"].tokens)
