"""The paged KV cache: blocks with users, found again by the hash of what they hold."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class BlockPool:
    """Blocks by number. Never used ones are given out first, then free ones, the longest unused first.

    A free block keeps its content until it is given out again, as in `vllm.v1.core.block_pool`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._fresh = 0  # blocks from here on were never used
        self._free: OrderedDict[int, None] = OrderedDict()
        self._users: dict[int, int] = {}
        self._content: dict[int, Hashable] = {}
        self._found: dict[Hashable, int] = {}

    @property
    def free(self) -> int:
        """How many blocks can be given out."""
        return self.size - self._fresh + len(self._free)

    @property
    def used(self) -> int:
        """How many blocks somebody holds."""
        return self.size - self.free

    def take(self, count: int) -> list[int]:
        """Give out `count` blocks; what they held is forgotten. Raises IndexError when there are fewer."""
        if count > self.free:
            raise IndexError(f"{count} blocks of {self.free}")
        fresh = min(count, self.size - self._fresh)
        taken = list(range(self._fresh, self._fresh + fresh))
        self._fresh += fresh
        for _ in range(count - fresh):
            block, _nothing = self._free.popitem(last=False)
            held = self._content.pop(block, None)
            if held is not None:
                del self._found[held]
            taken.append(block)
        for block in taken:
            self._users[block] = 1
        return taken

    def match(self, hashes: Sequence[Hashable]) -> list[int]:
        """The cached blocks of the longest known prefix; nobody's yet, see `share`."""
        found = []
        for held in hashes:
            block = self._found.get(held)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: Sequence[int]) -> int:
        """How many of these blocks nobody holds: sharing them takes so many from the free ones."""
        return sum(1 for block in blocks if block in self._free)

    def share(self, blocks: Sequence[int]) -> None:
        """Hold blocks that `match` found."""
        for block in blocks:
            if block in self._free:
                del self._free[block]
            self._users[block] = self._users.get(block, 0) + 1

    def remember(self, block: int, held: Hashable) -> None:
        """Say what a full block holds. Of two blocks with the same content the first is found."""
        if held not in self._found and block not in self._content:
            self._found[held] = block
            self._content[block] = held

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, its last one to be given out first."""
        for block in reversed(blocks):
            users = self._users[block] - 1
            self._users[block] = users
            if users == 0:
                self._free[block] = None
