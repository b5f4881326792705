"""What a worker shows of its cache's tiers, as figures and on its metrics page."""

from dataclasses import replace

from tandem.core.cache import TierStats
from tandem.core.kv_events import Tier
from tandem.core.types import Role
from tandem.worker_host.instruments import WorkerInstruments
from tests.fakes.measured import Measured, labels

DEVICE = TierStats(tier=Tier.DEVICE, num_blocks=7, num_hit_tokens=96)
HOST = TierStats(
    tier=Tier.HOST,
    num_blocks=5,
    num_hit_tokens=64,
    num_bytes=5000,
    num_demoted=9,
    num_promoted=4,
    num_rejected=1,
    num_skipped=2,
)


def test_each_tier_shows_what_it_holds_and_did() -> None:
    measured, seen = Measured(), [DEVICE, HOST]
    WorkerInstruments(meter=measured.meter, role=Role.DECODE).show_tiers(lambda: tuple(seen))
    device, host = labels(tier="device"), labels(tier="host")
    assert measured.sums("tandem.cache.tier.blocks") == {device: 7, host: 5}
    assert measured.sums("tandem.cache.tier.hit_tokens") == {device: 96, host: 64}
    assert measured.sums("tandem.cache.tier.size") == {host: 5000}
    assert measured.sums("tandem.cache.tier.promoted") == {host: 4}
    assert measured.sums("tandem.cache.tier.demoted") == {host: 9}
    assert measured.sums("tandem.cache.tier.rejected") == {host: 1}
    assert measured.sums("tandem.cache.tier.skipped") == {host: 2}
    seen[1] = replace(HOST, num_promoted=6, num_blocks=0)
    assert measured.sums("tandem.cache.tier.promoted") == {host: 6}
    assert measured.sums("tandem.cache.tier.blocks") == {device: 7, host: 0}
