"""The two parties: a bank with a table and the labels, and a helpdesk with a transformer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from peft import LoraConfig, get_peft_model
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn, optim
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

from examples.text_and_table.data import WORDS, Customers
from heterofed import (
    Batch,
    HeteroNNCollaboratorScheduler,
    HeteroNNHostScheduler,
    leave_out_frozen_weights,
    register_metrics,
)

WIDTH = 32
"""Numbers per letter at the cut layer."""


class LetterModel(nn.Module):
    """A transformer with LoRA, from token dicts to the mean of its last states."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        base = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
        base.gradient_checkpointing_enable({"use_reentrant": False})
        # peft keeps the weights that it adds in float32, and freezes all others.
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_lin", "k_lin", "v_lin", "lin2"])
        self.transformer = get_peft_model(base, lora)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        states = self.transformer(**tokens).last_hidden_state
        there = tokens["attention_mask"].unsqueeze(2)
        mean: Tensor = (states * there).sum(dim=1) / there.sum(dim=1)
        return mean  # bfloat16, and so it travels


def make_pretrained(folder: Path) -> None:
    """Make a small model with random weights, which stands for one that others have trained."""
    config = DistilBertConfig(
        vocab_size=2 + len(WORDS), dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=4 * WIDTH
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DistilBertModel(config).save_pretrained(folder)
    _make_tokenizer().save_pretrained(folder)


def _make_tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    plain = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )


class Helpdesk(HeteroNNCollaboratorScheduler):
    """Holds the letters, and a pretrained model in a folder."""

    def __init__(
        self, feature_key: str, data: Customers, pretrained: Path, **settings: Any
    ) -> None:
        super().__init__(feature_key, **settings)
        self.letters = dict(zip(data.ids, data.letters, strict=True))
        self.pretrained = pretrained
        self.tokenizer = AutoTokenizer.from_pretrained(pretrained)

    def load_local_ids(self) -> list[str]:
        return list(self.letters)

    def make_feature_model(self) -> nn.Module:
        # Checkpoints and feature_model.pt then hold the LoRA weights alone.
        return leave_out_frozen_weights(LetterModel(self.pretrained))

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        trained = [each for each in feature_model.parameters() if each.requires_grad]
        return optim.AdamW(trained, lr=3e-3)

    def load_features(self, ids: list[str]) -> dict[str, Tensor]:
        letters = [self.letters[each] for each in ids]
        return dict(self.tokenizer(letters, padding=True, return_tensors="pt"))

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for ids in self.batches(train_ids):
            yield Batch(feature_model(self.load_features(ids)), ids=ids)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)


class Bank(HeteroNNHostScheduler):
    """Holds the table and the labels."""

    def __init__(self, feature_key: str, data: Customers, **settings: Any) -> None:
        super().__init__(feature_key, batch_size=64, shuffle=True, **settings)
        self.data = data
        self.row = {each: number for number, each in enumerate(data.ids)}
        self.auc: list[float] = []

    def load_local_ids(self) -> list[str]:
        return self.data.ids

    def make_feature_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU())

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.AdamW(feature_model.parameters(), lr=1e-2)

    def make_infer_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(16 + WIDTH, 32), nn.ReLU(), nn.Linear(32, 1))

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.AdamW(infer_model.parameters(), lr=1e-2)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Batch]:
        for ids in self.batches(train_ids):
            rows = [self.row[each] for each in ids]
            yield Batch(feature_model(self.data.numbers[rows]), self.data.leaves[rows], ids)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Batch]:
        yield from self.iterate_train_feature(feature_model, test_ids)

    def score(self, projection: dict[str, Tensor]) -> Tensor:
        """Logits, [rows]."""
        features = [each.float() for each in projection.values()]
        output: Tensor = self.infer_model(torch.cat(features, dim=1))
        return output.squeeze(1)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self.score(feature_projection), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["auc"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        scores = torch.cat([self.score(each) for each in batched_feature_projections])
        self.auc.append(float(roc_auc_score(torch.cat(batched_labels), scores)))
        self.get_metrics("test").append_metrics_item({"auc": self.auc[-1]})

    def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Tensor:
        return torch.sigmoid(self.score(feature_projection))
