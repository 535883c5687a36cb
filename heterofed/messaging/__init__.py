"""Messages to and from peers: sending, waiting, deadlines, and how a task is aborted."""
