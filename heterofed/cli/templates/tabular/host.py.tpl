"""The bank: the Host, because it has the label."""

from heterofed.tabular import TabularHost

TASK = "@@NAME@@"  # the same at both parties

# Columns are prepared by what they hold; say `prepare=[Impute(), Scale(), ...]` (from
# heterofed.tabular.prepare) to choose. All settings of the model are decided here.
bank = TabularHost(
    "bank", "data/bank.csv", ids="customer", label="defaulted", max_rounds=10, join_timeout=120
)
bank.launch_task(TASK)
print(bank.evaluation)  # on rows that nothing was trained on

# Predictions need no label, and later rows than those of the training may be asked for.
asking = TabularHost("bank", "data/bank.csv", ids="customer", label=None, join_timeout=120)
found = asking.in_table_order(asking.predict(TASK, models="best"))
found.to_csv("data/predictions.csv", index=False)
print("data/predictions.csv")
