"""The PSI phase over the protocol, at the Host and at a Collaborator; it loads no torch."""
