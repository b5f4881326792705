"""The metrics page: what is shown, to whom, and until when."""

import urllib.error
import urllib.request

import pytest

from tandem.core.cache import TierStats
from tandem.core.errors import EnvironmentProblem
from tandem.core.kv_events import Tier
from tandem.rpc.metrics_endpoint import MetricsEndpoint, metrics_page
from tandem.rpc.telemetry import show_cache_tiers


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
        text: str = answer.read().decode()
        return text


def test_each_endpoint_shows_its_own_instruments_only() -> None:
    first, second = MetricsEndpoint(), MetricsEndpoint()
    try:
        ports = [endpoint.start("127.0.0.1", 0) for endpoint in (first, second)]
        first.meter.create_counter("tandem.first").add(3)
        second.meter.create_counter("tandem.second").add(4)
        pages = [_page(port) for port in ports]
    finally:
        first.stop()
        second.stop()
    assert "tandem_first_total" in pages[0]
    assert "tandem_second" not in pages[0]
    assert "tandem_second_total" in pages[1]
    assert "tandem_first" not in pages[1]


def test_tiers_of_the_cache_have_the_names_that_the_documents_say() -> None:
    endpoint = MetricsEndpoint()
    try:
        port = endpoint.start("127.0.0.1", 0)
        host = TierStats(tier=Tier.HOST, num_blocks=2, num_hit_tokens=32, num_bytes=99, num_demoted=3, num_promoted=1)
        show_cache_tiers(endpoint.meter, lambda: (host,))
        lines = _page(port).splitlines()
    finally:
        endpoint.stop()
    shown = {line.partition("{")[0]: line.rpartition(" ")[2] for line in lines if 'tandem_tier="host"' in line}
    assert shown == {
        "tandem_cache_tier_blocks": "2.0",
        "tandem_cache_tier_size_bytes": "99.0",
        "tandem_cache_tier_hit_tokens_total": "32.0",
        "tandem_cache_tier_promoted_total": "1.0",
        "tandem_cache_tier_demoted_total": "3.0",
        "tandem_cache_tier_rejected_total": "0.0",
        "tandem_cache_tier_skipped_total": "0.0",
    }


def test_a_taken_port_is_a_named_problem() -> None:
    first, second = MetricsEndpoint(), MetricsEndpoint()
    port = first.start("127.0.0.1", 0)
    try:
        with pytest.raises(EnvironmentProblem, match=str(port)) as caught:
            second.start("127.0.0.1", port)
    finally:
        first.stop()
        second.stop()
    assert "metrics_base_port" in caught.value.remedy


def test_after_the_stop_the_port_is_free_again() -> None:
    first = MetricsEndpoint()
    port = first.start("127.0.0.1", 0)
    first.stop()
    with pytest.raises(urllib.error.URLError):
        _page(port)
    second = MetricsEndpoint()
    try:
        assert second.start("127.0.0.1", port) == port
    finally:
        second.stop()


def test_an_endpoint_that_was_never_started_can_be_stopped() -> None:
    MetricsEndpoint().stop()


def test_a_page_lasts_as_long_as_its_block() -> None:
    probe = MetricsEndpoint()
    port = probe.start("127.0.0.1", 0)
    probe.stop()
    with metrics_page("127.0.0.1", port) as meter:
        meter.create_counter("tandem.shown").add(1)
        assert "tandem_shown_total" in _page(port)
    with pytest.raises(urllib.error.URLError):
        _page(port)


def test_without_a_port_there_is_a_meter_that_does_nothing() -> None:
    with metrics_page("127.0.0.1", None) as meter:
        meter.create_counter("tandem.silent").add(1)


def test_a_page_whose_port_is_taken_leaves_nothing_open() -> None:
    holder = MetricsEndpoint()
    port = holder.start("127.0.0.1", 0)
    holder.meter.create_counter("tandem.held").add(1)
    try:
        with pytest.raises(EnvironmentProblem), metrics_page("127.0.0.1", port):
            raise AssertionError("the block must not run")
        assert "tandem_held_total" in _page(port)
    finally:
        holder.stop()
