# @@NAME@@

A shop knows which customers came back; a help desk has the letters that they wrote. The letters stay
where they are: what leaves the help desk are eight numbers for each, which its half of the model has
learnt to make.

    make run

| file | what |
| --- | --- |
| `make_data.py` | makes up `data/customers.csv` and `data/letters.csv` |
| `host.py` | the shop: two columns, the label, and the model on top |
| `collaborator.py` | the help desk: words to an embedding |
