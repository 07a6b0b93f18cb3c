"""The scheduler: which tokens of which requests the next step computes. No clock, no I/O, no chance.

Continuous batching with a token budget, as vLLM's V1 scheduler does it (`vllm.v1.core.sched.scheduler`): requests that
run come first, then waiting ones are admitted in order of arrival (iteration-level scheduling: Orca, Yu et al., OSDI
2022). Keys and values lie in blocks (PagedAttention, Kwon et al., SOSP 2023); prompts are cut into chunks that fill the
budget (Sarathi-Serve, Agrawal et al., OSDI 2024). When the blocks run out, the request that was admitted last loses its
own and is computed anew later.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from autotune.engines.simulated.blocks import BlockPool


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a step, and the KV cache."""

    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int = 16
    num_blocks: int = 1
    chunked_prefill: bool = True
    prefix_caching: bool = True
    reserve_full_isl: bool = True  # admit nobody before all of its known tokens fit, not only its first chunk

    def sized(self, *, block_size: int, num_blocks: int) -> "Limits":
        """The same limits with this KV cache."""
        return replace(self, block_size=block_size, num_blocks=num_blocks)


@dataclass(slots=True, eq=False)
class Request:
    """One request inside the engine. Stamps are seconds on the engine's own time line."""

    number: int
    arrival_s: float  # at the server
    prompt_tokens: int
    max_tokens: int
    hashes: tuple[Hashable, ...] = ()  # of the prompt's full blocks
    computed: int = 0  # tokens whose keys and values are in the cache
    generated: int = 0
    blocks: list[int] = field(default_factory=list)
    preemptions: int = 0
    ready_s: float = 0.0  # when the API server handed it to the scheduler
    scheduled_s: float | None = None  # when it was first admitted
    token_times_s: list[float] = field(default_factory=list)

    @property
    def known(self) -> int:
        """Tokens that exist: prompt and answer so far."""
        return self.prompt_tokens + self.generated

    @property
    def finished(self) -> bool:
        """Whether all that was asked for exists."""
        return self.generated >= self.max_tokens

    def hash_of(self, index: int) -> Hashable:
        """What its full block `index` holds; blocks with generated tokens are like nobody else's."""
        return self.hashes[index] if index < len(self.hashes) else (self.number, index)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step computes: a number of tokens for each request, decode tokens first."""

    chunks: tuple[tuple[Request, int], ...]
    new_requests: int
    decode_only: bool


@dataclass(slots=True)
class State:
    """Everything the scheduler knows. `running` is in order of admission."""

    pool: BlockPool
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    preemptions: int = 0
    cache_queries: int = 0  # tokens looked up in the prefix cache, but for requests that were preempted
    cache_hits: int = 0  # tokens found there, likewise

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running or self.waiting)


def block_hashes(prompt: tuple[int, ...], block_size: int) -> tuple[Hashable, ...]:
    """A hash per full block of a prompt, which stands for the block and all before it."""
    hashes: list[Hashable] = []
    parent = 0
    for start in range(0, len(prompt) - block_size + 1, block_size):
        parent = hash((parent, prompt[start : start + block_size]))
        hashes.append(parent)
    return tuple(hashes)


def schedule(state: State, limits: Limits) -> Step:
    """The next step; empty when nothing can be computed.

    Gives blocks to what it schedules, preempts where they run out, and moves admitted requests from `waiting` to
    `running`. Call `complete` with the step before the next one is scheduled. Without chunked prefill too, whoever runs
    goes first; the difference is that a prompt waits until the rest of the budget holds all of it.
    """
    preempted_before = state.preemptions
    chunks = _continue_running(state, limits)
    decode_only = all(request.known - request.computed == 1 for request, _ in chunks)
    admitted: list[tuple[Request, int]] = []
    if state.preemptions == preempted_before:
        admitted = _admit(state, limits, limits.max_num_batched_tokens - sum(count for _, count in chunks))
    return Step((*chunks, *admitted), len(admitted), decode_only=decode_only and not admitted)


def complete(state: State, limits: Limits, step: Step) -> list[Request]:
    """Take in a computed step: a token for every request whose known tokens are all computed; returns the finished."""
    finished = []
    for request, count in step.chunks:
        before = request.computed
        request.computed += count
        if limits.prefix_caching:
            _remember(state.pool, request, before // limits.block_size, request.computed // limits.block_size)
        if request.computed == request.known:
            request.generated += 1
            if request.generated >= request.max_tokens:
                finished.append(request)
    if finished:
        remove(state, finished)
    return finished


def remove(state: State, requests: Iterable[Request]) -> None:
    """Forget requests that have finished, or that nobody waits for any more."""
    gone = set(map(id, requests))
    for request in state.running:
        if id(request) in gone:
            state.pool.release(request.blocks)
            request.blocks = []
    state.running = [request for request in state.running if id(request) not in gone]
    if any(id(request) in gone for request in state.waiting):
        state.waiting = deque(request for request in state.waiting if id(request) not in gone)


def steady_steps(state: State, limits: Limits, step: Step) -> int:
    """How many further steps are surely like this one, as long as nobody arrives; 0 when the next may differ.

    They are when all that runs decodes, nobody finishes, nobody can be admitted, and the blocks suffice.
    """
    admissible = state.waiting and len(state.running) < limits.max_num_seqs
    if not step.decode_only or not state.running or admissible:
        return 0
    steps = min(request.max_tokens - request.generated for request in state.running) - 1
    while steps > 0 and _blocks_for(state.running, steps, limits.block_size) > state.pool.free:
        steps //= 2
    return steps


def run_steady(state: State, limits: Limits, steps: int) -> None:
    """Compute `steps` steps at once, no more than `steady_steps` says; as `schedule` and `complete` that many times."""
    for request in state.running:
        before = request.computed
        missing = -(-(before + steps) // limits.block_size) - len(request.blocks)
        if missing > 0:
            request.blocks += state.pool.take(missing)
        request.computed = before + steps
        request.generated += steps
        if limits.prefix_caching:
            _remember(state.pool, request, before // limits.block_size, request.computed // limits.block_size)


def _continue_running(state: State, limits: Limits) -> list[tuple[Request, int]]:
    budget = limits.max_num_batched_tokens
    chunks: list[tuple[Request, int]] = []
    position = 0
    while position < len(state.running) and budget > 0:
        request = state.running[position]
        count = min(request.known - request.computed, budget)
        while not _grow(state.pool, request, count, limits.block_size):
            if _preempt_last(state) is request:
                return chunks
        chunks.append((request, count))
        budget -= count
        position += 1
    return chunks


def _admit(state: State, limits: Limits, budget: int) -> list[tuple[Request, int]]:
    """Admit waiting requests in order until a slot, the budget, or the blocks run out.

    As vLLM's `scheduler_reserve_full_isl`, which is on by default, the blocks for all known tokens must be free
    (`KVCacheManager.allocate_slots`, `full_sequence_must_fit`); only those of the first chunk are given out.
    """
    admitted: list[tuple[Request, int]] = []
    while state.waiting and budget > 0 and len(state.running) < limits.max_num_seqs:
        request = state.waiting[0]
        cached = _cached_blocks(state.pool, request, limits)
        found = len(cached) * limits.block_size
        count = request.known - found
        if not limits.chunked_prefill and count > budget:
            break
        count = min(count, budget)
        must_fit = request.known if limits.reserve_full_isl else found + count
        if _blocks(must_fit, limits) - len(cached) > state.pool.free - state.pool.idle(cached):
            break
        state.pool.share(cached)
        request.blocks = cached + state.pool.take(_blocks(found + count, limits) - len(cached))
        request.computed = found
        if limits.prefix_caching and not request.preemptions:  # vLLM counts the others apart (PrefixCacheStats)
            state.cache_queries += request.known
            state.cache_hits += found
        state.running.append(state.waiting.popleft())
        admitted.append((request, count))
        budget -= count
    return admitted


def _blocks(tokens: int, limits: Limits) -> int:
    return -(-tokens // limits.block_size)


def _cached_blocks(pool: BlockPool, request: Request, limits: Limits) -> list[int]:
    """The blocks of its tokens that are in the cache; its last token is always computed, to sample from it."""
    if not limits.prefix_caching:
        return []
    full = (request.known - 1) // limits.block_size
    if not request.preemptions:
        return pool.match(request.hashes[:full])
    return pool.match([request.hash_of(index) for index in range(full)])


def _grow(pool: BlockPool, request: Request, count: int, block_size: int) -> bool:
    """Give a request the blocks for `count` more tokens; False when there are not enough."""
    missing = -(-(request.computed + count) // block_size) - len(request.blocks)
    if missing > 0:
        if missing > pool.free:
            return False
        request.blocks += pool.take(missing)
    return True


def _preempt_last(state: State) -> Request:
    """Take everything from the request that was admitted last; it waits first in line and is computed anew."""
    victim = state.running.pop()
    state.pool.release(victim.blocks)
    victim.blocks = []
    victim.computed = 0
    victim.preemptions += 1
    state.preemptions += 1
    state.waiting.appendleft(victim)
    return victim


def _remember(pool: BlockPool, request: Request, first: int, end: int) -> None:
    for index in range(first, end):
        pool.remember(request.blocks[index], request.hash_of(index))


def _blocks_for(requests: Iterable[Request], steps: int, block_size: int) -> int:
    return sum(max(0, -(-(request.computed + steps) // block_size) - len(request.blocks)) for request in requests)
