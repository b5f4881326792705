"""`tandem status` says how prompts are computed at present, why, and what the cache saved."""

from tandem.client import ClusterStatus
from tandem.cluster.commands.status import status_lines
from tandem.core.cluster import ServingMode, ServingStatus


def test_serving_and_hit_rates_are_shown() -> None:
    serving = ServingStatus(mode=ServingMode.AGGREGATED, cause="local_is_faster", since_s=61.0)
    rates = {"device": 0.625, "host": 0.1}
    status = ClusterStatus(model="m", ready=True, router_id="r", uptime_s=1.0, serving=serving, cache_hit_rates=rates)
    assert status_lines(status)[2:] == [
        "serving: aggregated for 1 min 1 s (mostly: local is faster)",
        "prompt tokens from the cache: device 62.5%, host 10.0%",
    ]


def test_before_the_first_request_nothing_is_claimed() -> None:
    assert len(status_lines(ClusterStatus(model="m", ready=True, router_id="r", uptime_s=1.0))) == 2
