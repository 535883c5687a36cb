"""`python -m heterofed` is the `heterofed` command."""

from heterofed.cli import main

main()
