"""`python -m heterofed` is the `heterofed` command."""

from heterofed.cli.app import main

main()
