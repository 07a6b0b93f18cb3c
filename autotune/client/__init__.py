"""The service as the command line reaches it: the only importer of httpx."""

from autotune.client.address import Address
from autotune.client.server import Server
from autotune.client.token import find_token

__all__ = ["Address", "Server", "find_token"]
