"""The rules for messages that are in turn, by phase: what they may hold, and what they change."""
