"""Scores tables of any length over a standing link: rows stream in, and predictions stream out.

`parts` keeps what is done on disk and knows no link; `stream` asks and retries.
"""
