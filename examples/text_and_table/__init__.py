"""Fine-tunes a transformer on one party's letters beside another party's table."""
