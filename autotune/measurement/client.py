"""Whether the load generator, not the engine, is what a level measured."""

from autotune.level_run import ClientUse
from autotune.spec import Sla

BUSY_SHARE = 0.9  # of one core: an event loop this busy sends and notices late whenever two things happen at once
SMALLEST_MS = 10.0  # delays that every busy machine has
SHARE_OF_LIMIT = 0.1  # of a TTFT or E2EL limit: the error in a verdict that is still borne
SHARE_OF_GAP = 0.5  # of an ITL limit: a token noticed late makes one gap longer and the next one shorter
BEAT_S = 0.02  # how often the load generator's loop is asked to wake up; each time costs it as much as a token
SHORTEST_S = 250 * BEAT_S  # of a level: with fewer beats a single pause, or the start of the level, would decide
WITHOUT_LINE_MS = 100.0  # where the SLA only has a TPOT line, from which the delay of two tokens is averaged out

_ADVICE = (
    "Give the load generator a core of its own (fewer cores to the engine, less else on this host), spread the load "
    "over more hosts, or lower the levels"
)


def client_bound(lag_ms: float, client: ClientUse, duration_s: float, sla: Sla, *, aborted: bool = False) -> str:
    """Why a level says nothing about the engine, with advice; empty: the client kept up.

    `lag_ms` is the P99 of the time from when a request could be sent until it was. The lag and the pause of the event
    loop are errors of every latency, so they are judged by the tightest limit they blur. CPU time and pauses tell of
    levels of at least 5 s, and of those that were ended early (`aborted`), however short: it may be the client that
    made their requests late.
    """
    limit_ms = blur_limit_ms(sla)
    if lag_ms > limit_ms:
        return f"1 in 100 requests was sent {lag_ms:.0f} ms late or later ({limit_ms:.0f} ms are borne). {_ADVICE}."
    if duration_s < SHORTEST_S and not aborted:
        return ""
    if client.cpu_share > BUSY_SHARE:
        return f"the load generator used {client.cpu_share:.0%} of its core. {_ADVICE}."
    if client.pause_ms > limit_ms:
        return (
            f"1 in 100 times the load generator noticed an arrival {client.pause_ms:.0f} ms late or later "
            f"({limit_ms:.0f} ms are borne). {_ADVICE}."
        )
    return ""


def blur_limit_ms(sla: Sla) -> float:
    """The delay of the client that is still borne under this SLA, in ms."""
    shares = {"ttft": SHARE_OF_LIMIT, "e2el": SHARE_OF_LIMIT, "itl": SHARE_OF_GAP}
    blurred = [shares[line.metric] * line.limit_ms for line in sla.latency_limits if line.metric in shares]
    return max(SMALLEST_MS, min(blurred, default=WITHOUT_LINE_MS))
