"""The router's configuration: defaults, constraints, and that each section reaches the part it is for."""

import pytest
from pydantic import ValidationError

from tandem.core.types import PriorityClass
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


def test_every_field_is_described() -> None:
    for section in (RouterConfig, LimitsSection, QueueSection, PlacementSection, TimersSection, StreamSection):
        assert [name for name, field in section.model_fields.items() if not field.description] == []
