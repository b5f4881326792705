"""What the storm and the campaign count as faulted, and what they do not."""

from dataclasses import replace

from benchmarks.campaign import FIRST, STORM_SHARE, Done, Part, fuzz, next_part, storm
from benchmarks.fault_storm import Tally, count, met
from benchmarks.storm_faults import Strike
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec
from tandem.core.ids import WorkerId
from tandem.core.inference import ServedBy

_STRIKE = Strike(kind="decode killed", victims=frozenset({"decode-0"}), began_s=10.0, ended_s=12.0, took_effect=True)


def _record(began_s: float, ended_s: float, *, decode: str = "decode-0", attempts: int = 1) -> RequestRecord:
    workers = ServedBy(prefill_worker=WorkerId("prefill-0"), decode_worker=WorkerId(decode))
    return RequestRecord(
        spec=RequestSpec(prompt=(5, 6)),
        began_s=began_s,
        ended_s=ended_s,
        ending=Ending.OK,
        attempts=attempts,
        workers=workers,
    )


def test_only_who_ran_while_the_fault_was_on_met_it() -> None:
    assert met(_record(9.0, 10.5), _STRIKE)
    assert met(_record(11.0, 20.0), _STRIKE)
    assert not met(_record(8.0, 9.9), _STRIKE)
    assert not met(_record(12.1, 13.0), _STRIKE)


def test_undisturbed_neighbours_do_not_count_and_who_moved_does() -> None:
    assert not met(_record(9.0, 13.0, decode="decode-1"), _STRIKE)
    assert met(_record(9.0, 13.0, decode="decode-1", attempts=2), _STRIKE)


def test_who_was_prefilled_by_the_decode_worker_met_no_fault_of_its_kv_link() -> None:
    on_link = replace(_STRIKE, on_kv_link=True)
    local = _record(11.0, 11.5)
    assert met(local, on_link)
    local.workers = ServedBy(prefill_worker=WorkerId("decode-0"), decode_worker=WorkerId("decode-0"))
    assert met(local, _STRIKE)
    assert not met(local, on_link)


def test_marked_faults_strike_marked_prompts_only() -> None:
    marked = Strike(kind="NaN", victims=_STRIKE.victims, mark=6, began_s=10.0, ended_s=12.0, took_effect=True)
    assert met(_record(11.0, 11.5), marked)
    marked.mark = 7
    assert not met(_record(11.0, 11.5), marked)


def test_a_request_counts_once_and_a_fault_without_effect_counts_nothing() -> None:
    tally = Tally()
    without = replace(_STRIKE, kind="missed", took_effect=False)
    again = replace(_STRIKE, kind="again")
    count(tally, [_record(9.0, 11.0), _record(0.0, 1.0)], [_STRIKE, again, without])
    assert (tally.sent, tally.faulted) == (2, 1)
    assert set(tally.by_kind) == {"decode killed", "again"}


def _done(part: Part, faulted: int) -> Done:
    return Done(part, {}, {}, faulted, faulted, 1.0)


def test_the_campaign_takes_its_share_from_the_storm_and_then_ends() -> None:
    wanted = 30_000
    done = [_done(part, 100) for part in FIRST]
    while (part := next_part(done, wanted)) is not None:
        done.append(_done(part, int(part.arguments[1])))
    storms = sum(one.faulted for one in done if one.part.name == storm(1, 1).name)
    assert storms >= STORM_SHARE * wanted
    assert sum(one.faulted for one in done) >= wanted
    assert any(one.part.name == fuzz(1, 1).name for one in done)
    assert len({one.part.arguments for one in done[2:]}) == len(done) - 2, "each part has its own seed"
