"""What a node tells its operator: structured logs and metrics.

Logs are events: a verb in the past and fields (`log.info("segment_written", size_bytes=…)`), one
JSON object a line on stderr. Metrics are plain numbers that their owners keep; they are read at
scrape time through `statistics()` records, so counting costs an addition.

Keeps: no row, token, password or statement is ever a field. A scrape calls each source once.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import orjson
import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

PREFIX = "kalamdb_"
LATENCY_BOUNDS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────


def configure_logging(level: str, form: str) -> None:
    """Send structlog's events, and what libraries say through `logging`, to stderr."""
    least = getattr(logging, level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without the values of variables: those hold tokens and rows.
    bare = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[Any] = (
        [
            structlog.processors.ExceptionRenderer(bare),
            structlog.processors.JSONRenderer(_json),
        ]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryHandler()], level=max(least, logging.WARNING), force=True)


def _json(event: MutableMapping[str, Any], **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class _LibraryHandler(logging.Handler):
    """Records of `logging` (aiohttp, asyncio) as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger: Any = structlog.get_logger()
        logger.log(
            record.levelno,
            "library_said",
            library=record.name,
            said=record.getMessage(),
            exc_info=record.exc_info,
        )


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────


class Histogram:
    """Counts by upper bound; `observe` is a bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    name: str
    read: Callable[[], object]
    labels: Mapping[str, str]


class Metrics(Collector):
    """Sources of numbers, rendered in Prometheus text form.

    A source is a function that returns a dataclass: each number in it is the metric
    `kalamdb_<name>_<field>`, a `Histogram` in it a histogram. A field whose `metadata` says
    `counter`, or whose name ends in `_total`, only goes up; every other one is a gauge.
    """

    def __init__(self) -> None:
        self._sources: list[_Source] = []
        self._outside = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._outside)
        self._outside.register(self)

    def watch(self, name: str, read: Callable[[], object], **labels: str) -> None:
        """Read this source at each scrape; `labels` tell several of one name apart. One of the same
        name and labels is replaced.
        """
        others = (one for one in self._sources if (one.name, one.labels) != (name, labels))
        self._sources = [*others, _Source(name, read, labels)]

    def render(self) -> bytes:
        return generate_latest(self._outside)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Any] = {}
        for source in self._sources:
            record: Any = source.read()
            for field in dataclasses.fields(record):
                value = getattr(record, field.name)
                counts = field.metadata.get("counter") or field.name.endswith("_total")
                name = f"{PREFIX}{source.name}_{field.name}"
                _add(families, name, value, source.labels, counts=bool(counts))
        yield from families.values()


def _add(
    families: dict[str, Any], name: str, value: object, labels: Mapping[str, str], *, counts: bool
) -> None:
    """Put one value into its family; what is no number is left out."""
    values = list(labels.values())
    help_text = name.removeprefix(PREFIX).replace("_", " ")
    if isinstance(value, Histogram):
        family = families.setdefault(
            name, HistogramMetricFamily(name, help_text, labels=list(labels))
        )
        running, buckets = 0, list[tuple[str, float]]()
        for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), running))
        family.add_metric(values, buckets, value.total)
    elif isinstance(value, bool | int | float):
        kind = CounterMetricFamily if counts else GaugeMetricFamily
        family = families.setdefault(name, kind(name, help_text, labels=list(labels)))
        family.add_metric(values, float(value))
