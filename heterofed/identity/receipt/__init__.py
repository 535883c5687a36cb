"""The receipt of a run: its lines, the statements that parties sign, and how both are checked.

This package reads and makes bytes. It knows no run, network or clock, so that a receipt can be
checked offline with nothing but public keys.
"""
