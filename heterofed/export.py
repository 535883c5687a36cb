"""Exports a trained half to files that can be read without heterofed: safetensors and ONNX."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from msgspec import to_builtins
from torch import Tensor, nn

from heterofed._version import __version__
from heterofed.compute.wrappers import unwrapped
from heterofed.data.signature import read_signature
from heterofed.errors import ConfigError, needing
from heterofed.files import make_folder, writing
from heterofed.metrics import last_rows
from heterofed.reporting.results import check_writable, write_whole
from heterofed.runs.artifacts import Trained, Which, read_trained, read_weights
from heterofed.runs.extra_modules import EXTRA, named_extras

CARD = "card.json"
MODELS = ("feature_model", "infer_model", "model", EXTRA)
"""The models of a half, the model of a horizontal task, and modules that the user's class holds."""


def export(folder: str | Path, out: str | Path, *, models: Which = "last") -> Path:
    """Write a party's trained models: `<model>.safetensors` for each of them, and `card.json`.

    The weights of further modules that are attributes of the party's scheduler are in
    `extra_modules.safetensors`, with the path of each one, such as `self.head.weight`.

    The card names the task, the run, the party, the number of trained rounds, the shapes of the
    tensors, the columns that the half was trained on, the last value of every metric up to that
    round, versions, and a SHA-256 of each file. The columns include the means that replace missing
    values, which are statistics of this party's data.

    Args:
        folder: the results folder of a finished run.
        out: the folder for the files, which is made if it does not exist.
        models: "last" for the models of the last round, "best" for those that `mark_best` kept.

    Returns:
        The path of the card.

    Raises:
        ConfigError: the folder holds no finished run, safetensors is not installed, or `out` cannot
            be written.
    """
    with needing("export", "an export"):
        from safetensors.torch import save
    trained, out = read_trained(Path(folder), models), Path(out).absolute()
    names = [name for name in MODELS if trained.path(f"{name}.pt").exists()]
    if not names:
        raise ConfigError(
            f"{folder} holds no {models} models; give the results folder of a run that has ended"
        )
    states = {name: _plain(_weights(trained, name), name) for name in names}
    check_writable(out)
    with writing(out):
        make_folder(out)
    halves = {}
    for name, state in states.items():
        raw = save(state, metadata={"format": "pt"})
        _write(out / f"{name}.safetensors", raw)
        halves[name] = {
            "file": f"{name}.safetensors",
            "sha256": hashlib.sha256(raw).hexdigest(),
            "tensors": {
                key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
                for key, value in state.items()
            },
        }
    return _write(out / CARD, json.dumps(_card(trained, halves), indent=2).encode())


def _write(path: Path, content: bytes) -> Path:
    return write_whole(path, lambda file: file.write(content), anywhere=True)


def _weights(trained: Trained, name: str) -> Mapping[str, Any]:
    state = read_weights(trained, name)
    return named_extras(state) if name == EXTRA else state


def _plain(state: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return a state dict as safetensors requires it: tensors only, none of which share memory."""
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"{name}: its state_dict holds other values than tensors; export it yourself"
        )
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def _card(trained: Trained, halves: Mapping[str, Any]) -> dict[str, Any]:
    summary = json.loads((trained.folder / "summary.json").read_text())
    rounds = trained.best_round if trained.which == "best" else trained.rounds
    return {
        "task": summary["task_id"],
        "feature_key": summary["party"],
        "run": trained.run.hex(),
        "rounds": rounds,
        "models": trained.which,
        "halves": dict(halves),
        "inputs": None if (kept := read_signature(trained.folder)) is None else to_builtins(kept),
        "metrics": last_rows(trained.folder, rounds),
        "versions": {
            "heterofed": __version__,
            "torch": torch.__version__.partition("+")[0],
            "python": platform.python_version(),
        },
    }


def export_onnx(model: nn.Module, example: Tensor | tuple[Tensor, ...], path: str | Path) -> Path:
    """Write a half as an ONNX model that takes any number of rows.

    Args:
        model: a half with its weights, such as `scheduler.feature_model`. It is not changed.
        example: example inputs with at least two rows, to trace the model.
        path: the path of the file to write.

    Returns:
        The path.

    Raises:
        ConfigError: the packages for ONNX are not installed, or ONNX cannot express the model.
    """
    with needing("onnx", "ONNX"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    model = unwrapped(model)
    path = Path(path)
    check_writable(path.absolute().parent)
    modes = [(each, each.training) for each in model.modules()]
    rows = torch.export.Dim("rows")
    try:
        model.eval()
        program = torch.onnx.export(
            model,
            inputs,
            dynamo=True,
            verbose=False,
            dynamic_shapes=tuple({0: rows} for _ in inputs),
        )
    except Exception as error:
        raise ConfigError(
            f"a {type(model).__name__} cannot be written as ONNX ({type(error).__name__}); export"
            " its weights with heterofed.export.export"
        ) from error
    finally:
        for each, was_training in modes:
            each.training = was_training
    if program is None:
        raise ConfigError("torch.onnx.export returned nothing; export the weights by export")
    return _write(path, program.model_proto.SerializeToString())
