# @@NAME@@

The Host has labels and no column at all, such as an insurer that knows who had an accident. A shop and
a club have columns. The Host's model lies on top of what both send.

    make run

| file | what |
| --- | --- |
| `make_data.py` | makes up `data/insurer.csv`, `data/shop.csv` and `data/club.csv` |
| `host.py` | the insurer |
| `collaborator.py` | the shop or the club: `python collaborator.py shop` |
