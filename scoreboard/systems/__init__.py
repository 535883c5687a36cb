"""One folder a system: `prepare`, `host` and `collaborator`, each a script of its own."""
