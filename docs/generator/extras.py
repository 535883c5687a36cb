"""The table of extras, from pyproject.toml."""

from __future__ import annotations

import tomllib
from typing import Any

from docs.generator.markdown import ROOT, table

FOR = {
    "examples": "the examples of a clone: MNIST from torchvision, scikit-learn's data sets",
    "export": "`heterofed.export`: a trained half as safetensors",
    "onnx": "`heterofed.export`: a trained half as ONNX",
    "plot": "pictures of baselines",
    "parquet": "tables and lists of ids from Parquet files",
    "table": "`heterofed.tabular`: tables from files, columns of every kind, metrics, scorecards",
    "sql": "`heterofed.tabular.sources`: tables in PostgreSQL and other databases",
    "phone": "`heterofed.tabular.ids`: ids that are phone numbers",
    "tensorboard": "`heterofed.reporting.trackers.tensorboard`",
    "mlflow": "`heterofed.reporting.trackers.mlflow`",
    "wandb": "`heterofed.reporting.trackers.wandb`",
    "prometheus": "`heterofed.reporting.trackers.prometheus`",
    "opentelemetry": "`heterofed.reporting.trackers.opentelemetry`",
    "notebook": "the notebooks in `examples/notebooks`",
    "watch": "`heterofed watch` and `--watch`: a live page of runs",
    "serve": "`heterofed serve`: rows of a trained model over HTTP",
    "search": "`heterofed.tabular.search`: settings are tried over one intersection",
    "text": "the example `examples.text_and_table`: a transformer with LoRA",
    "workers": "`feature_workers`: a party of several processes",
    "dask": "intersections on a Dask cluster",
    "ray": "intersections on a Ray cluster",
    "privacy": "DP-SGD (`heterofed.privacy.dpsgd`)",
    "diagrams": "`make diagrams`: drawing the diagrams of this site that changed",
    "docs": "building this site",
    "mutants": "`make mutants`: what tests do not notice",
    "dev": "linters, types and the test suite",
}
"""What each extra is for; one that is missing here ends the generator."""


def extras() -> dict[str, list[str]]:
    """The requirements of each extra."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


def extras_table() -> str:
    """Each extra, what it is for, and what it installs."""
    found = extras()
    if unsaid := found.keys() - FOR.keys():
        raise KeyError(f"say in {__name__} what the extra {min(unsaid)} is for")
    rows = (
        [f"`{name}`", FOR[name], "many" if name == "dev" else ", ".join(requirements)]
        for name, requirements in found.items()
    )
    return table(["extra", "for", "installs"], rows)
