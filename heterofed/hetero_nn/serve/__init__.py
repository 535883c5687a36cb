"""Serves a trained model over a standing link: rows by number, features in answer, for days."""
