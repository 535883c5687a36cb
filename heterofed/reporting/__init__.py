"""Shows and writes a run for people: log lines, progress, results, costs."""
