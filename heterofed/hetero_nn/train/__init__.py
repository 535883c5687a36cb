"""The training loops of both roles, and what stands between them and the wire."""
