# @@NAME@@

Two parties have half of every picture each (scikit-learn's digits, 8 by 8, no download), and one of
them knows which digit it is. Their halves of one network meet at the Host.

    make run

| file | what |
| --- | --- |
| `make_data.py` | cuts the pictures into `data/left.npz` (with labels) and `data/right.npz` |
| `host.py` | the left half, the labels and the model on top |
| `collaborator.py` | the right half |

Every method is a hook: see heterofed's reference of hooks for the others.
