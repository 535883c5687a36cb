"""The shop: a Collaborator, with columns and no label."""

from heterofed.tabular import TabularCollaborator

TASK = "@@NAME@@"  # the same at both parties

shop = TabularCollaborator("shop", "data/shop.csv", ids="client", join_timeout=120)
shop.launch_task(TASK)

# The bank cannot predict alone: the shop's half of the model stays here. It answers one request,
# and computes at most so many rows a day.
shop.serve_predictions(TASK, max_rows_per_day=10_000, requests=1)
