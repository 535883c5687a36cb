"""Exchanges messages with peers: it sends, waits, keeps deadlines and aborts tasks."""
