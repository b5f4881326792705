"""Metrics in the documents are those that the processes show, and the other way round, under Prometheus' names."""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from tandem.core.cache import TierStats
from tandem.core.ids import WorkerId
from tandem.core.kv_events import Tier
from tandem.core.types import WorkerLoad
from tandem.rpc import telemetry
from tests.meta.source_files import ROOT

DOCUMENTS = ("operations.md", "prefix_cache.md", "admission.md")
FULL = re.compile(r"`((?:tandem|gen_ai)_[a-z_]+\*?)(?:\{[^`]*)?`")
LABELS = {name.replace(".", "_") for key, name in vars(telemetry).items() if key.startswith("ATTRIBUTE_")}


@pytest.fixture(scope="module")
def shown() -> Iterator[frozenset[str]]:
    """Names as Prometheus shows them, of a router and of a worker."""
    registry = CollectorRegistry()
    provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=registry)])
    meter = provider.get_meter("t")
    for instruments in (telemetry.router_metrics(meter), telemetry.worker_metrics(meter)):
        for field in fields(instruments):
            instrument: Any = getattr(instruments, field.name)
            (instrument.record if hasattr(instrument, "record") else instrument.add)(1)
    telemetry.show_worker_load(meter, WorkerId("decode-0"), WorkerLoad)
    telemetry.show_cache_tiers(
        meter, lambda: tuple(TierStats(tier=tier, num_blocks=1, num_hit_tokens=1) for tier in Tier)
    )
    reading = telemetry.CacheReading(num_blocks=1, num_gaps=1, num_snapshots=1, stale_s={WorkerId("decode-0"): 1.0})
    telemetry.show_cache_index(meter, lambda: reading)
    images = telemetry.ImageReading(
        num_written=1, num_failed=1, num_read=1, num_missed=1, num_blocks_warmed=1, refused={"forged": 1}
    )
    telemetry.show_cache_images(meter, lambda: images)
    yield frozenset(
        family.name + "_total" * (family.type == "counter") for family in registry.collect() if family.name != "target"
    )
    provider.shutdown()


def _text(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def _is_named(name: str, text: str) -> bool:
    """In full, or as the end of a name whose beginning stands before it, as `_kv_free_blocks` does."""
    return f"`{name}`" in text or any(name.endswith(end) for end in re.findall(r"`(_[a-z_]+)`", text))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_metrics_in_documents_are_shown(document: str, shown: frozenset[str]) -> None:
    named = set(FULL.findall(_text(document))) - LABELS
    assert named, "this document names metrics"
    for name in named:
        assert any(one.startswith(name[:-1]) for one in shown) if name.endswith("*") else name in shown, name
    for end in re.findall(r"`(_[a-z_]+)`", _text(document)):
        assert any(name.endswith(end) for name in shown), end


def test_metrics_that_are_shown_are_named_for_operators(shown: frozenset[str]) -> None:
    text = _text("operations.md") + _text("prefix_cache.md")
    assert len(shown) > 30
    assert [name for name in sorted(shown) if not _is_named(name, text)] == []
