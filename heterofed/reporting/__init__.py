"""What a run shows and writes for people: log lines, progress, results, costs."""
