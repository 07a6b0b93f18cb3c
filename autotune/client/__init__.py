"""The service as the command line reaches it: the only importer of httpx."""
