"""Lets the parties of a task find each other, prove their identities and agree on a plan."""
