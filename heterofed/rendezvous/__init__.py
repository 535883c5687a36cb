"""How the parties of a task find each other, prove who they are and agree on a plan."""
