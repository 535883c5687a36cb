"""What may be said, and how it is written: the table, the session and the wire."""
