"""Where commands print."""

import sys

from rich.console import Console

PIPED_WIDTH = 120  # columns when the output is a file or a pipe, so that tables keep their shape


def console() -> Console:
    """The standard output: as wide as the terminal, or 120 columns where there is none."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
