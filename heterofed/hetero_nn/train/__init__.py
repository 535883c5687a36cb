"""What the two training loops are made of: joint batches, feature senders, guards, dry runs."""
