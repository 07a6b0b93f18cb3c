"""Serving engines: launched under a supervisor, waited for, read back and stopped."""
