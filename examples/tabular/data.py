"""scikit-learn's breast-cancer data (569 x 30, no download), cut into three parties.

The measurements of each tumour come as a standard error, a mean and a worst value of ten features.
Here each kind is another party's, and each party lacks some of the patients.
"""

from __future__ import annotations

from sklearn.datasets import load_breast_cancer

from heterofed.data import VerticalTable, vertical_split

HOST, LAB, CLINIC = "hospital", "lab", "clinic"
LABEL = "benign"


def load_parties(overlap: float = 0.9, seed: int = 0) -> dict[str, VerticalTable]:
    """Each party's table; the hospital's holds the labels too."""
    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": LABEL})
    frame.insert(0, "patient", [f"patient-{row:03}" for row in range(len(frame))])
    columns = {
        HOST: [name for name in frame if name.endswith(" error")],
        LAB: [name for name in frame if name.startswith("mean ")],
        CLINIC: [name for name in frame if name.startswith("worst ")],
    }
    parties: dict[str, VerticalTable] = vertical_split(
        frame,
        parties=columns,
        label_owner=HOST,
        label=LABEL,
        id="patient",
        overlap=overlap,
        seed=seed,
    )
    return parties
