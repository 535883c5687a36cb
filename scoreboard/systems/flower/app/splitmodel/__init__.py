"""A Flower app: a ServerApp with labels and columns, and a ClientApp with columns."""
