"""When a router gets a way to the shared reservations, and how patient it is."""

from pathlib import Path

import pytest

from tandem.cluster.programs.config import RegistryTarget, RouterProgramConfig
from tandem.cluster.programs.reservations import open_reserver
from tandem.core.clock import MonotonicClock

ROUTER = {"kind": "router", "address": "127.0.0.1:1"}
REDIS = {"kind": "redis", "url": "redis://127.0.0.1:1/0"}
OWN = "redis://127.0.0.1:2/0"


def program(
    registry: dict[str, str], *, redis: dict[str, object] | None = None, share: str = "auto"
) -> RouterProgramConfig:
    return RouterProgramConfig.model_validate(
        {
            "router": {"placement": {"share": share}},
            "cache": {"settings": {"redis": redis or {}}},
            "model_folder": Path("m"),
            "registry": RegistryTarget.model_validate(registry),
        }
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (program(ROUTER), False),
        (program(REDIS), True),
        (program(ROUTER, redis={"url": OWN}), True),
        (program(REDIS, share="on"), True),
        (program(REDIS, share="off"), False),
    ],
)
async def test_a_way_there_needs_a_redis_and_must_not_be_switched_off(
    config: RouterProgramConfig, expected: bool
) -> None:
    reserver = open_reserver(config, MonotonicClock())
    assert (reserver is not None) == expected
    if reserver is not None:
        await reserver.close()


@pytest.mark.parametrize(("timeout_s", "expected_s"), [(0.01, 0.01), (5.0, 0.02)])
async def test_a_patient_cache_makes_no_patient_reservations(timeout_s: float, expected_s: float) -> None:
    reserver = open_reserver(program(REDIS, redis={"timeout_s": timeout_s, "breaker_failures": 7}), MonotonicClock())
    assert reserver is not None
    assert reserver.policy.timeout_s == expected_s
    assert reserver.policy.breaker.max_failures == 7
    await reserver.close()
