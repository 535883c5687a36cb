"""Four points at two parties, cut by rows and by columns."""
