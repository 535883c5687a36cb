"""The messages of the protocol, their order and their encoding; no clock, socket or torch."""
