"""Logs and metrics as an operator's tools read them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from kalamdb.lib.observe import Histogram, Metrics, configure_logging


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def test_events_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log: Any = structlog.get_logger()
    log.debug("not_shown")
    log.info("segment_written", size_bytes=7, odd=object)
    logging.getLogger("aiohttp.server").error("it said %s", "something")
    logging.getLogger("aiohttp.server").info("not shown")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["segment_written", "library_said"]
    assert lines[0]["size_bytes"] == 7
    assert lines[0]["level"] == "info"
    assert lines[0]["timestamp"].endswith("Z")
    assert lines[1]["said"] == "it said something"


@pytest.mark.parametrize("form", ["json", "text"])
def test_tracebacks_hold_no_values(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", form)
    log: Any = structlog.get_logger()
    _fail(log, "hush-hush"[::-1][::-1])
    logged = capsys.readouterr().err
    assert "RuntimeError" in logged
    assert "hush-hush" not in logged


def _fail(log: Any, token: str) -> None:
    try:
        raise RuntimeError(len(token))
    except RuntimeError as error:
        log.error("it_failed", exc_info=error)


@dataclass(frozen=True, slots=True)
class Numbers:
    rows: int
    writes_total: int
    drops: int = field(default=2, metadata={"counter": True})
    name: str = "not a number"
    full: bool = True
    latency_s: Histogram = field(default_factory=Histogram)


def test_records_become_metrics() -> None:
    metrics = Metrics()
    one, two = Numbers(5, 7), Numbers(6, 8)
    for value in (0.0001, 0.0002, 100.0):
        one.latency_s.observe(value)
    metrics.watch("store", lambda: one, group="1")
    metrics.watch("store", lambda: two, group="2")
    families = {
        family.name: family for family in text_string_to_metric_families(metrics.render().decode())
    }
    rows = families["kalamdb_store_rows"]
    assert rows.type == "gauge"
    assert {each.labels["group"]: each.value for each in rows.samples} == {"1": 5, "2": 6}
    assert families["kalamdb_store_writes"].type == "counter"
    assert families["kalamdb_store_drops"].type == "counter"
    assert families["kalamdb_store_full"].samples[0].value == 1
    assert "kalamdb_store_name" not in families
    buckets = {
        each.labels["le"]: each.value
        for each in families["kalamdb_store_latency_s"].samples
        if each.name.endswith("_bucket") and each.labels["group"] == "1"
    }
    assert (buckets["0.0001"], buckets["0.00025"], buckets["30.0"]) == (1, 2, 2)
    assert buckets["+Inf"] == 3
