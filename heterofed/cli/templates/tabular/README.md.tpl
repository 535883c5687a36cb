# @@NAME@@

A bank knows who paid a loan back; a shop knows what some of the same people buy. Each has a table with
a column of ids. They train one model, and neither sees the other's columns.

    make run

| file | what |
| --- | --- |
| `make_data.py` | makes up `data/bank.csv` and `data/shop.csv`; put your own tables in their place |
| `host.py` | the bank: has the label, trains, and asks for predictions |
| `collaborator.py` | the shop: trains with it, and answers one request for predictions |

The same without a line of Python: `heterofed table train data/bank.csv --task @@NAME@@ --id customer
--label defaulted` at the bank, `heterofed table train data/shop.csv --task @@NAME@@ --id client --role
collaborator` at the shop.
