"""heterofed, over TCP with keys, as between two organisations."""
