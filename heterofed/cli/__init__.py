"""The `heterofed` command."""

from heterofed.cli.app import main

__all__ = ["main"]
