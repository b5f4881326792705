"""The router's configuration: defaults, constraints, and that each section reaches the part it is for."""

import pytest
from pydantic import ValidationError

from tandem.core.types import PriorityClass
from tandem.router.admission.buckets import TenantLimit
from tandem.router.admission.config import AdmissionSection, LimitSection
from tandem.router.cache.config import CacheImageSection, CacheSection
from tandem.router.config import (
    LimitsSection,
    PlacementSection,
    QueueSection,
    RouterConfig,
    StreamSection,
    TimersSection,
)
from tandem.router.placement import PlacementMode


def test_defaults_serve_loopback() -> None:
    config = RouterConfig()
    assert (config.host, config.internal_host, config.metrics_host) == ("127.0.0.1",) * 3
    assert config.metrics_port is None
    assert config.placement.mode is PlacementMode.AUTO


@pytest.mark.parametrize(
    "bad",
    [
        {"port": 70000},
        {"unknown": 1},
        {"router_id": "with space"},
        {"limits": {"max_sequences": 9}},
        {"queue": {"batch_floor": 0.6}},
        {"queue": {"tenant_weights": {"a": 0.0}}},
        {"timers": {"suspect_after_s": 5.0, "dead_after_s": 5.0}},
        {"placement": {"mode": "both"}},
        {"stream": {"max_buffered_tokens": 1}},
        {"admission": {"default_limit": {"requests_per_minute": 0}}},
        {"admission": {"brown_out_levels": [0.8, 0.9]}},
        {"admission": {"tenant_limits": {"a": {"tokens": 1}}}},
    ],
)
def test_bad_values_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RouterConfig.model_validate(bad)


def test_sections_reach_their_parts() -> None:
    assert LimitsSection(max_sequences=2, max_messages=3).request_limits().max_sequences == 2
    bounds = QueueSection(max_count=5, max_batch_work_s=7.0).bounds()
    assert (bounds.max_count, bounds.max_work_s[PriorityClass.BATCH]) == (5, 7.0)
    policy = PlacementSection(mode=PlacementMode.SPLIT, look_ahead_s=0.5, min_split_tokens=9).policy()
    assert (policy.mode, policy.look_ahead_s, policy.min_split_tokens) == (PlacementMode.SPLIT, 0.5, 9)
    assert TimersSection(suspect_after_s=1.0, dead_after_s=2.0).health().dead_after_s == 2.0
    assert StreamSection(max_buffered_tokens=10).bounds().max_tokens == 10
    whole = RouterConfig(queue=QueueSection(max_wait_s=3.0), timers=TimersSection(gap_timeout_s=1.0))
    assert whole.dispatcher_policy().max_queue_wait_s == 3.0
    assert whole.dispatcher_policy().gap_timeout_s == 1.0


def test_the_admission_section_reaches_the_gate() -> None:
    section = AdmissionSection.model_validate(
        {
            "interactive_ttft_s": 1.0,
            "ttft_reserve": 0.2,
            "tenant_limits": {"a": {"tokens_per_minute": 6000, "burst_s": 10}},
            "default_limit": {"requests_per_minute": 60},
            "brown_out_levels": [0.5, 0.6, 0.7],
            "brown_out_batch_tokens": 64,
            "batch_yields": False,
        }
    )
    policy = RouterConfig(admission=section).dispatcher_policy().admission
    assert policy.ttft_slo_s == {PriorityClass.INTERACTIVE: 1.0}
    assert policy.limits == {"a": TenantLimit(tokens=6000.0, burst_s=10.0)}
    assert policy.default_limit == TenantLimit(requests=60.0)
    assert policy.brown_out.levels == (0.5, 0.6, 0.7)
    assert (policy.slo_reserve, policy.batch_max_tokens, policy.yields) == (0.2, 64, False)


def test_an_image_outlives_the_interval_at_which_it_is_renewed() -> None:
    assert CacheImageSection(interval_s=10.0, ttl_s=30.0).enabled
    with pytest.raises(ValidationError, match="at least three times"):
        CacheImageSection(interval_s=10.0, ttl_s=29.0)


def test_every_field_is_described() -> None:
    for section in (
        AdmissionSection,
        LimitSection,
        RouterConfig,
        LimitsSection,
        QueueSection,
        PlacementSection,
        TimersSection,
        StreamSection,
        CacheSection,
        CacheImageSection,
    ):
        assert [name for name, field in section.model_fields.items() if not field.description] == []
