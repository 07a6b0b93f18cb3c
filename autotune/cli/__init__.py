"""The command line. A command imports what only it needs, so that `autotune --help` answers at once."""
