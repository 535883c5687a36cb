"""Joint predictions: the Host asks for rows, the Collaborators answer within their quotas."""
