"""What an intersection keeps on disk: ids, counts, keys, results; it knows no protocol."""
