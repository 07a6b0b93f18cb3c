"""The simulated engine's scheduler: token budget, slots, blocks, preemption and the prefix cache."""

from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.engines.simulated.blocks import BlockPool
from autotune.engines.simulated.scheduler import (
    Limits,
    Request,
    State,
    block_hashes,
    complete,
    remove,
    run_steady,
    schedule,
    steady_steps,
)


def limits(**changes: int | bool) -> Limits:
    return Limits(**{"max_num_seqs": 4, "max_num_batched_tokens": 8, "block_size": 4, "num_blocks": 100, **changes})


def state_of(*requests: Request, blocks: int = 100) -> State:
    state = State(pool=BlockPool(blocks))
    state.waiting.extend(requests)
    return state


def request(number: int, prompt: int, answer: int = 4, *, tokens: tuple[int, ...] = ()) -> Request:
    return Request(number, 0.0, len(tokens) or prompt, answer, hashes=block_hashes(tokens, 4))


def step(state: State, bounds: Limits) -> list[tuple[int, int]]:
    """One step; (request, tokens) of each chunk."""
    planned = schedule(state, bounds)
    chunks = [(request.number, count) for request, count in planned.chunks]
    complete(state, bounds, planned)
    return chunks


def run_out(state: State, bounds: Limits) -> list[list[tuple[int, int]]]:
    steps = []
    while state.busy:
        steps.append(step(state, bounds))
        assert len(steps) < 10_000
    return steps


def test_prompts_are_cut_to_the_token_budget() -> None:
    state = state_of(request(1, 5), request(2, 9))
    assert [step(state, limits()) for _ in range(3)] == [[(1, 5), (2, 3)], [(1, 1), (2, 6)], [(1, 1), (2, 1)]]


def test_a_request_that_runs_goes_before_one_that_waits() -> None:
    state = state_of(request(1, 8))
    step(state, limits())
    state.waiting.append(request(2, 20))
    assert step(state, limits()) == [(1, 1), (2, 7)]


def test_no_more_requests_run_than_there_are_slots() -> None:
    state = state_of(*(request(number, 1) for number in range(6)))
    assert step(state, limits()) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_token_comes_with_the_last_chunk_of_the_prompt() -> None:
    asked = request(1, 10)
    state = state_of(asked)
    generated = []
    for _ in range(3):
        step(state, limits())
        generated.append(asked.generated)
    assert generated == [0, 1, 2]


def test_a_finished_request_gives_its_blocks_back() -> None:
    state = state_of(request(1, 6, answer=2))
    run_out(state, limits())
    assert state.pool.used == 0


def test_without_chunked_prefill_a_prompt_waits_until_all_of_it_fits_into_the_step() -> None:
    bounds = limits(chunked_prefill=False)
    state = state_of(request(1, 5), request(2, 6))
    assert [step(state, bounds) for _ in range(3)] == [[(1, 5)], [(1, 1), (2, 6)], [(1, 1), (2, 1)]]


def test_without_chunked_prefill_a_prompt_of_the_whole_budget_gets_in_when_nobody_runs_any_more() -> None:
    """It never fits beside a decode; nobody overtakes it, so those that run come to their end."""
    bounds = limits(chunked_prefill=False)
    state = state_of(request(1, 2, answer=3), request(2, 8, answer=1), request(3, 1, answer=1))
    assert run_out(state, bounds) == [[(1, 2)], [(1, 1)], [(1, 1)], [(2, 8)], [(3, 1)]]


def test_a_request_is_admitted_only_when_its_whole_prompt_fits_into_the_cache() -> None:
    """Its first chunk needs two blocks of the three that are free, the whole prompt four."""
    bounds = limits(num_blocks=5, prefix_caching=False)
    first = request(1, 8, answer=2)
    state = state_of(first, blocks=5)
    step(state, bounds)
    state.waiting.append(request(2, 16, answer=1))
    assert step(state, bounds) == [(1, 1)]
    assert step(state, bounds) == [(2, 8)]  # the first has finished: all five are free
    assert state.preemptions == 0


def test_the_first_chunk_is_enough_where_the_reservation_is_switched_off() -> None:
    bounds = limits(num_blocks=5, prefix_caching=False, reserve_full_isl=False)
    state = state_of(request(1, 8, answer=2), blocks=5)
    step(state, bounds)
    state.waiting.append(request(2, 16, answer=1))
    assert step(state, bounds) == [(1, 1), (2, 7)]


def test_when_the_blocks_run_out_the_request_admitted_last_is_computed_anew() -> None:
    """Three blocks of four tokens: both prompts fit, both answers do not."""
    bounds = limits(num_blocks=3, prefix_caching=False)
    first, second = request(1, 4, answer=4), request(2, 4, answer=4)
    state = state_of(first, second, blocks=3)
    steps = run_out(state, bounds)
    assert (first.preemptions, second.preemptions, state.preemptions) == (0, 1, 1)
    assert steps[1] == [(1, 1)]  # the second one loses its block to the first
    assert steps[4] == [(2, 5)]  # its prompt and its first token once more


def test_what_a_preempted_request_finds_again_is_no_cache_hit() -> None:
    """Both look up four tokens once; the second one, preempted, finds its own prompt, which nobody is told."""
    bounds = limits(num_blocks=4)
    first, second = (request(n, 0, answer=6, tokens=(n,) * 4) for n in (1, 2))
    state = state_of(first, second, blocks=4)
    steps = run_out(state, bounds)
    assert second.preemptions == 1
    assert steps[-1] == [(2, 5)]  # of its nine tokens: the block of its prompt was still there
    assert (state.cache_queries, state.cache_hits) == (8, 0)


def test_a_cached_prefix_is_not_computed_again() -> None:
    prompt = tuple(range(10))
    state = state_of(request(1, 0, answer=1, tokens=prompt))
    run_out(state, limits(max_num_batched_tokens=16))
    state.waiting.append(request(2, 0, tokens=(*prompt[:8], 99, 98)))
    assert step(state, limits(max_num_batched_tokens=16)) == [(2, 2)]
    assert (state.cache_queries, state.cache_hits) == (20, 8)


def test_the_last_token_is_computed_even_if_the_whole_prompt_is_cached() -> None:
    prompt = tuple(range(8))
    state = state_of(request(1, 0, answer=1, tokens=prompt))
    run_out(state, limits())
    state.waiting.append(request(2, 0, tokens=prompt))
    assert step(state, limits()) == [(2, 4)]


def test_without_prefix_caching_nothing_is_found() -> None:
    prompt = tuple(range(8))
    bounds = limits(prefix_caching=False)
    state = state_of(request(1, 0, answer=1, tokens=prompt), request(2, 0, tokens=prompt))
    run_out(state, bounds)
    assert (state.cache_queries, state.cache_hits) == (0, 0)


def test_the_longest_unused_blocks_are_evicted_first() -> None:
    """Four blocks: the third prompt takes those of the first, and the second one is still found."""
    bounds = limits(num_blocks=4)
    prompts = [tuple(range(start, start + 8)) for start in (0, 100, 200)]
    state = state_of(blocks=4)
    for number, prompt in enumerate(prompts):
        state.waiting.append(request(number, 0, answer=1, tokens=prompt))
        run_out(state, bounds)
    state.waiting.append(request(9, 0, answer=1, tokens=prompts[1]))
    run_out(state, bounds)
    assert state.cache_hits == 4
    state.waiting.append(request(10, 0, answer=1, tokens=prompts[0]))
    run_out(state, bounds)
    assert state.cache_hits == 4


def test_a_block_that_two_share_is_freed_by_the_last_one() -> None:
    pool = BlockPool(2)
    (block,) = pool.take(1)
    pool.share([block])
    pool.release([block])
    assert pool.used == 1
    pool.release([block])
    assert pool.used == 0


def test_a_request_that_nobody_waits_for_leaves_nothing_behind() -> None:
    running, waiting = request(1, 4), request(2, 4)
    state = state_of(running, waiting)
    step(state, limits(max_num_seqs=1))
    remove(state, [running, waiting])
    assert (state.busy, state.pool.used) == (False, 0)


def test_steps_are_steady_until_the_next_one_finishes() -> None:
    bounds = limits()
    state = state_of(request(1, 2, answer=10), request(2, 2, answer=6))
    step(state, bounds)
    planned = schedule(state, bounds)
    complete(state, bounds, planned)
    assert steady_steps(state, bounds, planned) == 3  # two of six tokens are there, and the last step finishes


def test_steps_are_not_steady_while_somebody_may_be_admitted() -> None:
    bounds = limits()
    state = state_of(request(1, 2, answer=10))
    step(state, bounds)
    planned = schedule(state, bounds)
    complete(state, bounds, planned)
    state.waiting.append(request(2, 2))
    assert steady_steps(state, bounds, planned) == 0


REQUESTS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    sizes=REQUESTS,
    slots=st.integers(1, 5),
    extra=st.integers(0, 20),
    blocks=st.integers(16, 40),
    chunked=st.booleans(),
    caching=st.booleans(),
)
def test_every_request_is_answered_within_all_limits(
    sizes: list[tuple[int, int, int]], slots: int, extra: int, blocks: int, chunked: bool, caching: bool
) -> None:
    """Whatever arrives: slots, budget and blocks are kept, everybody gets every token, and no block is lost."""
    budget = slots + extra if chunked else 64
    bounds = limits(
        max_num_seqs=slots,
        max_num_batched_tokens=budget,
        num_blocks=blocks,
        chunked_prefill=chunked,
        prefix_caching=caching,
    )
    asked = [request(n, 0, answer, tokens=(kind,) * prompt) for n, (prompt, answer, kind) in enumerate(sizes)]
    state = state_of(*asked, blocks=blocks)
    while state.busy:
        chunks = step(state, bounds)
        assert chunks
        assert len(state.running) <= slots
        assert sum(count for _, count in chunks) <= budget
        assert state.pool.used <= blocks
    assert [one.generated for one in asked] == [answer for _, answer, _ in sizes]
    assert state.pool.used == 0


@settings(max_examples=60, deadline=None)
@given(sizes=REQUESTS, slots=st.integers(1, 5), blocks=st.integers(16, 40), caching=st.booleans())
def test_steps_run_at_once_lead_where_single_steps_lead(
    sizes: list[tuple[int, int, int]], slots: int, blocks: int, caching: bool
) -> None:
    bounds = limits(max_num_seqs=slots, max_num_batched_tokens=16, num_blocks=blocks, prefix_caching=caching)

    def run(*, jump: bool) -> tuple[int, list[tuple[int, int]], int, int]:
        asked = [request(n, 0, answer, tokens=(kind,) * prompt) for n, (prompt, answer, kind) in enumerate(sizes)]
        state = state_of(*asked, blocks=blocks)
        steps = 0
        while state.busy:
            planned = schedule(state, bounds)
            complete(state, bounds, planned)
            steps += 1
            if jump and (more := steady_steps(state, bounds, planned)):
                run_steady(state, bounds, more)
                steps += more
        return steps, [(one.generated, one.preemptions) for one in asked], state.preemptions, state.cache_hits

    assert run(jump=True) == run(jump=False)
