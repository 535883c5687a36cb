"""Intersects a small set with a large one whose outputs were computed once and are kept on disk.

The owner of the large set keeps a secret key, and ships a compact filter of its outputs once. A
later request costs the small side only. The modules know no socket and no clock.
"""
