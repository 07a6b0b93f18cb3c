"""Traces: one recorded request a row, with its time and lengths, as JSON lines or CSV.

Three sets of column names are known: Mooncake's (https://github.com/kvcache-ai/Mooncake, FAST'25 traces), those of the
Azure LLM inference traces (https://github.com/Azure/AzurePublicDataset), and plain ones of our own.
"""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from autotune.errors import InputError
from autotune.workload.dataset import Trace
from autotune.workload.draw import WINDOW, Drawn, Need, Streams, TokenIds, draw_prompt, streams
from autotune.workload.files import read_data

SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request. `hash_ids` name the blocks of its prompt: the same id, the same tokens."""

    at_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceSource:
    """A trace that is ready to be drawn from: its rows in the order of time, their lengths within the limits."""

    dataset: Trace
    token_ids: TokenIds
    rows: tuple[TraceRow, ...]
    first: int = 0  # the row that a level begins with

    @property
    def longest_request_tokens(self) -> int:
        """Input and output of the longest request together."""
        return max(row.input_tokens + row.output_tokens for row in self.rows)

    @property
    def period_s(self) -> float:
        """After which the trace begins again: its length, and a gap of the mean length."""
        last = len(self.rows) - 1
        return (self.rows[-1].at_s - self.rows[0].at_s) * (last + 1) / last


def open_trace(dataset: Trace, token_ids: TokenIds) -> TraceSource:
    """Read the file; longer requests are cut to the dataset's limits. Raises what `read_rows` raises."""
    rows = (_cut(row, dataset) for row in read_rows(dataset))
    return TraceSource(dataset, token_ids, tuple(sorted(rows, key=lambda row: row.at_s)))


def stretch(source: TraceSource, seed: int) -> TraceSource:
    """The source from where a seed's levels begin: all at the same row, which may be any.

    A trace that is no longer than a level goes round to its beginning: every seed has an arrival pattern of its own.
    """
    return replace(source, first=int(streams(seed, WINDOW).choices.integers(len(source.rows))))


def recorded_s(source: TraceSource) -> Iterator[float]:
    """The recorded times from the first row on, in seconds since it, without end: a trace begins again and again."""
    start_s = source.rows[source.first].at_s
    for position in itertools.count(source.first):
        lap, row = divmod(position, len(source.rows))
        yield lap * source.period_s + source.rows[row].at_s - start_s


def rows_lasting(source: TraceSource, at_least_s: float) -> int:
    """How many rows from the first one on until one comes so late, in recorded time."""
    return 1 + sum(1 for _ in itertools.takewhile(lambda at_s: at_s < at_least_s, recorded_s(source)))


def draw_trace(source: TraceSource, need: Need, rngs: Streams) -> list[Drawn]:
    """The rows from the first one on.

    A block's tokens are drawn where its id comes first, and anew in each round of all rows.
    """
    blocks: dict[tuple[int, int], TokenIds] = {}
    block_tokens = source.dataset.block_tokens
    drawn = []
    for position in range(need.count):
        lap, row = position // len(source.rows), source.rows[(source.first + position) % len(source.rows)]
        for block in row.hash_ids:
            if (lap, block) not in blocks:
                blocks[lap, block] = draw_prompt(source.token_ids, block_tokens, rngs.tokens)
        if row.hash_ids:
            prompt = tuple(itertools.chain.from_iterable(blocks[lap, block] for block in row.hash_ids))
        else:
            prompt = draw_prompt(source.token_ids, row.input_tokens, rngs.tokens)
        drawn.append(Drawn(prompt[: row.input_tokens], row.output_tokens))
    return drawn


def read_rows(dataset: Trace) -> list[TraceRow]:
    """The trace as it was recorded, in the order of the file.

    Raises InputError with the first wrong rows by their line, or when all have the same time; EnvironmentProblem when
    the file is not there or has changed.
    """
    rows, problems = [], []
    columns: _Columns | None = None
    for line, record in _records(dataset, read_data(dataset)):
        columns = columns or _columns(record, dataset)
        try:
            rows.append(_row(record, columns, dataset))
        except ValueError as exc:
            problems.append(f"line {line}: {exc}")
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        raise InputError(f"{dataset.path}: {len(problems)} of {len(rows) + len(problems)} rows are wrong: {shown}")
    if len({row.at_s for row in rows}) < 2:
        raise InputError(f"{dataset.path}: a trace needs rows of two different times at least")
    return rows


def over_limit(row: TraceRow, dataset: Trace) -> bool:
    """Whether a row is longer than the dataset's limits allow."""
    return row.input_tokens > dataset.max_input_tokens or row.output_tokens > dataset.max_output_tokens


def _cut(row: TraceRow, dataset: Trace) -> TraceRow:
    input_tokens = min(row.input_tokens, dataset.max_input_tokens)
    blocks = row.hash_ids[: math.ceil(input_tokens / dataset.block_tokens)]
    return TraceRow(row.at_s, input_tokens, min(row.output_tokens, dataset.max_output_tokens), blocks)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The names of a trace's columns, and how its times are read, in seconds."""

    time: str
    seconds: Callable[[Any], float]
    input: str
    output: str


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"must be a number, not {value!r}")
    return number


def _date(value: Any) -> float:
    """A date with a time of day, such as 2023-11-16 18:17:03.9799600; digits below microseconds are dropped."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"must be a date with a time, not {value!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_KNOWN = (
    _Columns("timestamp", lambda value: _number(value) / 1000, "input_length", "output_length"),  # Mooncake
    _Columns("TIMESTAMP", _date, "ContextTokens", "GeneratedTokens"),  # Azure
    _Columns("timestamp_s", _number, "input_tokens", "output_tokens"),
)


def _columns(record: Mapping[str, Any], dataset: Trace) -> _Columns:
    for columns in _KNOWN:
        if {columns.time, columns.input, columns.output} <= record.keys():
            return columns
    known = "; ".join(f"{columns.time}, {columns.input}, {columns.output}" for columns in _KNOWN)
    raise InputError(f"{dataset.path}: has the columns {', '.join(map(str, record))}; known are {known}")


def _records(dataset: Trace, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each row and its line: CSV with a header when the file is called so, else a JSON object a line."""
    if dataset.path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        yield from ((reader.line_num, row) for row in reader)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as exc:
            raise InputError(f"{dataset.path}: line {number} is not JSON: {exc}; CSV files end with .csv") from exc
        if not isinstance(record, dict):
            raise InputError(f"{dataset.path}: line {number} is not a JSON object")
        yield number, record


def _row(record: Mapping[str, Any], columns: _Columns, dataset: Trace) -> TraceRow:
    at_s = _read(record, columns.time, columns.seconds)
    input_tokens = int(_read(record, columns.input, _tokens))
    output_tokens = int(_read(record, columns.output, _tokens))
    hash_ids = _read_blocks(record.get("hash_ids") or (), input_tokens, dataset.block_tokens)
    return TraceRow(at_s, input_tokens, output_tokens, hash_ids)


def _read(record: Mapping[str, Any], name: str, convert: Callable[[Any], float]) -> float:
    if name not in record:
        raise ValueError(f"has no {name}")
    try:
        return convert(record[name])
    except ValueError as exc:
        raise ValueError(f"{name} {exc}") from exc


def _tokens(value: Any) -> float:
    number = _number(value)
    if number < 1 or not number.is_integer():
        raise ValueError(f"must be a whole number of at least 1, not {value!r}")
    return number


def _read_blocks(hash_ids: Any, input_tokens: int, block_tokens: int) -> tuple[int, ...]:
    if not isinstance(hash_ids, Sequence) or not all(isinstance(block, int) for block in hash_ids):
        raise ValueError(f"hash_ids must be a list of whole numbers, not {hash_ids!r}")
    needed = math.ceil(input_tokens / block_tokens)
    if hash_ids and len(hash_ids) != needed:
        raise ValueError(
            f"has {len(hash_ids)} hash_ids for {input_tokens} prompt tokens, not {needed}, one for each "
            f"{block_tokens}; block_tokens says another size"
        )
    return tuple(hash_ids)
