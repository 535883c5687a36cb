"""Makes joint predictions: the Host requests rows, and Collaborators answer within their quotas."""
