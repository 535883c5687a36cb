"""Servers over HTTP whose connections have limits, for whoever has something to serve.

`connections` limits what a caller may send, and `server` makes a server of an application.
"""
