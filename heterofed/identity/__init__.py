"""A party's identity and consents: its keys, its task files with their terms, its audit log."""
