"""Intersects the sets of three and more parties, so that nobody learns a pairwise intersection.

The requester learns only which of its ids all others have. The modules know no socket and no clock.
"""
