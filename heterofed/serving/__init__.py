"""Answers requests for predictions over HTTP, at the Host of a trained model.

`bodies` and `openapi` are pure, `api` is the application, and `server` runs it beside the link to
the other parties.
"""
