"""What the live controller is made of: traffic, roster, lead, scale orders, policies."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.controller.live.leadership import Leadership, Lease, next_term
from tandem.controller.live.policies import Policies
from tandem.controller.live.roster import Expected, Roster, described, observation_of, registered, replanned, seen
from tandem.controller.live.scaling import SCALE_RECORD, ScaleDesk, ScaleOrders, new_names, read_orders
from tandem.controller.live.traffic import class_traffic
from tandem.controller.moves.command import Command, heard
from tandem.controller.observation import Stage
from tandem.controller.policy.slo import SloClass
from tandem.core.description import WorkerDescription
from tandem.core.errors import Overloaded, Unavailable
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients
from tandem.core.records import MemoryRecords, RecordStore, overwrite
from tandem.core.role_commands import RoleReport
from tandem.core.traffic import EndedRequest, OpenRequest, StoredRecord, TrafficReport, Written
from tandem.core.types import Outcome, PriorityClass, Role, WorkerInfo, WorkerLoad
from tests.fakes.live_world import LiveWorld

STANDARD = PriorityClass.STANDARD
PROMISE = SloClass.model_validate({"ttft": {"target": "1s"}, "tpot": {"target": "100ms"}, "e2e": {"target": "9s"}})


def ended(**changes: object) -> EndedRequest:
    plain = EndedRequest(
        age_s=1.0, priority=STANDARD, outcome=Outcome.OK, new_tokens=10, cached_tokens=2, output_tokens=5,
        ttft_s=0.5, tpot_s=0.05, gap_p95_s=0.06, e2e_s=2.0,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


# --- traffic ------------------------------------------------------------------------------------------------------


def test_rates_of_several_routers_add_up() -> None:
    one = TrafficReport(router_id="a", window_s=60.0, arrivals={STANDARD: tuple(i / 4 for i in range(240))})
    young = TrafficReport(router_id="b", window_s=5.0, arrivals={STANDARD: (0.1, 1.1, 2.1, 3.1, 4.1)})
    traffic = class_traffic([one, young], {}, interval_s=1.0)
    assert traffic[STANDARD].arrivals_per_s == pytest.approx(4.1 + 1.0)
    assert traffic[PriorityClass.BATCH].arrivals_per_s == 0.0
    assert traffic[PriorityClass.BATCH].shapes == ()


def test_what_was_shed_or_failed_missed_its_promises_and_what_was_cancelled_counts_for_nothing() -> None:
    requests = (
        ended(),
        ended(ttft_s=1.5),
        ended(outcome=Outcome.SHED, ttft_s=None, output_tokens=0),
        ended(outcome=Outcome.CANCELLED),
        ended(age_s=55.0, ttft_s=9.0),  # long ago
    )
    (traffic,) = [
        class_traffic([TrafficReport(router_id="a", window_s=60.0, ended=requests)], {STANDARD: PROMISE}, interval_s=5)[
            STANDARD
        ]
    ]
    assert traffic.num_ended == 3
    assert traffic.kept == {
        "ttft": pytest.approx(1 / 3), "tpot": pytest.approx(2 / 3), "e2e": pytest.approx(2 / 3),
    }  # fmt: skip
    assert traffic.attainment == pytest.approx(1 / 3)
    assert len(traffic.shapes) == 3, "of whole answers only, the old one too"


def test_bursts_are_seen_as_bursts() -> None:
    even = TrafficReport(router_id="a", window_s=60.0, arrivals={STANDARD: tuple(float(i) for i in range(60))})
    bursts = replace(even, arrivals={STANDARD: tuple(10.0 * (i // 10) + 0.01 * (i % 10) for i in range(60))})
    few = replace(even, arrivals={STANDARD: (1.0, 2.0, 3.0)})
    scvs = [class_traffic([each], {}, interval_s=1.0)[STANDARD].arrival_scv for each in (even, bursts, few)]
    assert scvs[0] < 0.5
    assert scvs[1] > 4.0
    assert scvs[2] == 1.0


def test_what_began_before_a_disturbance_was_over_says_nothing_of_the_present_split() -> None:
    waited = [ended(ttft_s=20.0, e2e_s=25.0, age_s=2.0)] * 30
    fresh = [ended(age_s=2.0)] * 5
    report = TrafficReport(router_id="a", window_s=60.0, ended=(*waited, *fresh))
    late = class_traffic([report], {STANDARD: PROMISE}, interval_s=1.0)[STANDARD]
    assert late.attainment == pytest.approx(5 / 35)
    calm = class_traffic([report], {STANDARD: PROMISE}, interval_s=1.0, calm_s=10.0)[STANDARD]
    assert (calm.num_ended, calm.attainment) == (5, 1.0)


def under_way(**changes: object) -> OpenRequest:
    plain = OpenRequest(
        age_s=1.0, priority=STANDARD, new_tokens=10, cached_tokens=2, output_tokens=5, max_output_tokens=1000
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_rate_and_sizes_speak_of_the_same_requests() -> None:
    """Long prompts came until ten seconds ago, short ones since, four times as many; none of these has ended."""
    old = [ended(age_s=age / 2, new_tokens=600, output_tokens=5, e2e_s=12.0) for age in range(60)]
    new = tuple(under_way(age_s=9.9 - index / 8, new_tokens=40, output_tokens=0) for index in range(80))
    ages = (*(12.0 + age / 2 for age in reversed(range(60))), *(each.age_s for each in new))
    report = TrafficReport(router_id="a", window_s=60.0, arrivals={STANDARD: ages}, ended=tuple(old), open=new)
    traffic = class_traffic([report], {}, interval_s=1.0)[STANDARD]
    assert traffic.arrivals_per_s == pytest.approx(8.0)
    assert traffic.rate_error_per_s == pytest.approx(0.45, abs=0.05), "these come evenly: half of what Poisson's would"
    assert {shape.new_tokens for shape in traffic.shapes} == {40}
    few = class_traffic([replace(report, arrivals={}, open=new[:3])], {}, interval_s=1.0)[STANDARD]
    assert [shape.new_tokens for shape in few.shapes].count(40) == 3
    assert len(few.shapes) == 16, "the latest ones, where few came"


def test_what_is_under_way_is_expected_to_write_on_but_not_beyond_what_its_caller_allows() -> None:
    request = under_way(output_tokens=50, max_output_tokens=70)
    report = TrafficReport(router_id="a", window_s=60.0, ended=(ended(output_tokens=5),) * 9, open=(request,) * 4)
    traffic = class_traffic([report], {STANDARD: PROMISE}, interval_s=1.0)[STANDARD]
    assert traffic.num_open == 4
    assert traffic.left_tokens == pytest.approx(80.0)


def test_who_waits_too_long_for_its_first_token_is_missed_now() -> None:
    waits = [under_way(output_tokens=0, age_s=age) for age in (0.9, 1.1, 5.0)]
    report = TrafficReport(router_id="a", window_s=60.0, ended=(ended(age_s=20.0, e2e_s=40.0),) * 2, open=tuple(waits))
    traffic = class_traffic([report], {STANDARD: PROMISE}, interval_s=1.0)[STANDARD]
    assert (traffic.num_latest, traffic.missed_now) == (4, 1.0), "its end was late as well, whenever it came"
    assert class_traffic([report], {}, interval_s=1.0)[STANDARD].missed_now == 0.0


# --- the roster ---------------------------------------------------------------------------------------------------


def info(name: str, role: Role = Role.PREFILL, epoch: int = 1) -> WorkerInfo:
    world = LiveWorld()
    return world.add(name, role, epoch=epoch).info


def description(name: str, *, epoch: int = 1, busy_s: float = 0.0, role: Role = Role.PREFILL) -> WorkerDescription:
    return WorkerDescription(
        info=info(name, role, epoch),
        latency=LatencyCoefficients(),
        load=WorkerLoad(total_blocks=10, free_blocks=10),
        busy_s=busy_s,
    )


def claimed(*names: str, role: Role = Role.PREFILL, draining: bool = False) -> Command:
    command = Command(term=1)
    for name in names:
        report = RoleReport(
            worker_id=WorkerId(name), epoch=Epoch(1), term=1, sequence=0, role=role, draining=draining, busy=False
        )
        command = heard(command, report)
    return command


def test_who_is_gone_is_expected_back_for_a_while() -> None:
    roster = registered(Roster(), [info("p0"), info("p1")], 0.0)
    roster = registered(roster, [info("p0")], 10.0)
    stages = {w.worker_id: w.stage for w in seen(roster, claimed("p0", "p1"))}
    assert stages == {"p0": Stage.SERVING, "p1": Stage.STARTING}
    assert [each.worker_id for each in roster.listed()] == ["p0"]
    assert len(registered(roster, [info("p0")], 69.0).known) == 2
    assert len(registered(roster, [info("p0")], 71.0).known) == 1


def test_a_new_life_is_not_what_was_known_of_the_old_one() -> None:
    roster = described(registered(Roster(), [info("p0")], 0.0), description("p0"), 1.0)
    roster = registered(roster, [info("p0", epoch=2)], 2.0)
    assert roster.known[WorkerId("p0")].description is None
    assert seen(roster, claimed("p0"))[0].stage is Stage.STARTING, "it has to be claimed again"
    assert described(roster, description("p0"), 3.0) == roster, "the old life's word is late"


def test_who_comes_back_in_another_role_is_known_until_it_has_its_own_again_or_a_move_begins() -> None:
    roster = registered(Roster(), [info("p0", Role.DECODE)], 0.0)
    roster = registered(registered(roster, [], 1.0), [info("p0", Role.PREFILL, epoch=2)], 5.0)
    assert roster.known[WorkerId("p0")].died_as is Role.DECODE
    again = registered(roster, [info("p0", Role.PREFILL, epoch=3)], 6.0)
    assert again.known[WorkerId("p0")].died_as is Role.DECODE, "it died before it could be given back"
    assert replanned(roster).known[WorkerId("p0")].died_as is None
    switched = registered(roster, [info("p0", Role.DECODE, epoch=2)], 7.0)
    assert switched.known[WorkerId("p0")].died_as is None
    same = registered(registered(Roster(), [info("p1")], 0.0), [info("p1", epoch=2)], 1.0)
    assert same.known[WorkerId("p1")].died_as is None


def test_who_was_taken_away_is_not_missed() -> None:
    roster = replace(registered(Roster(), [info("p0"), info("p1")], 0.0), removed=frozenset({WorkerId("p1")}))
    assert [w.worker_id for w in seen(roster, claimed("p0", "p1"))] == ["p0"]
    roster = registered(roster, [info("p0")], 1.0)
    assert WorkerId("p1") not in roster.known
    assert roster.removed == frozenset()


def test_who_was_ordered_counts_as_starting_until_its_time_is_over() -> None:
    roster = replace(Roster(), expected={WorkerId("d9"): Expected(role=Role.DECODE, until_s=50.0)})
    roster = registered(roster, [info("p0")], 10.0)
    assert {(w.worker_id, w.role, w.stage) for w in seen(roster, claimed("p0"))} == {
        ("p0", Role.PREFILL, Stage.SERVING),
        ("d9", Role.DECODE, Stage.STARTING),
    }
    assert registered(roster, [info("p0")], 51.0).expected == {}
    assert registered(roster, [info("d9", Role.DECODE)], 20.0).expected == {}


def test_the_oldest_word_is_the_age_of_the_whole() -> None:
    roster = registered(Roster(), [info("p0"), info("p1")], 0.0)
    assert observation_of(roster, claimed("p0"), {}, measured_s=9.0, queued_work_s=0.0) is None
    roster = described(roster, description("p0", busy_s=1.0), 5.0)
    roster = described(roster, description("p1"), 6.0)
    roster = described(roster, description("p0", busy_s=3.0), 9.0)
    observed = observation_of(roster, claimed("p0", "p1"), {}, measured_s=8.0, queued_work_s=1.5)
    assert observed is not None
    assert observed.measured_s == 6.0
    assert observed.backlog_s == 1.5
    assert observed.prefill_busy == pytest.approx(0.25), "p0 computed half of the time, p1 is new"


# --- the lead -----------------------------------------------------------------------------------------------------


def test_terms_rise_whatever_is_known() -> None:
    known = Lease(term=7, controller_id="a", renewed_unix_s=0.0)
    assert next_term(known, unix_s=1.0) > next_term(known, unix_s=0.0) >= 8
    assert next_term(None, unix_s=2.0) > next_term(None, unix_s=1.0)
    ahead = Lease(term=1 << 62, controller_id="a", renewed_unix_s=0.0)
    assert next_term(ahead, unix_s=1.0) == (1 << 62) + 1, "a clock that was set back"
    assert next_term(None, unix_s=1.0, at_least=1 << 62) == (1 << 62) + 1
    assert next_term(None, unix_s=4e9) < 1 << 63


async def test_the_lead_is_held_renewed_and_lost() -> None:
    store = MemoryRecords()
    first, second = (Leadership(store, name, lease_s=5.0) for name in "ab")
    assert await first.seek(100.0)
    assert not await second.seek(104.9)
    assert await first.renew(104.0, move_ended_unix_s=103.0, last_switch_to=Role.DECODE)
    assert not await second.seek(108.9)
    assert await second.seek(109.1)
    assert second.inherited is not None
    assert (second.inherited.move_ended_unix_s, second.inherited.last_switch_to) == (103.0, Role.DECODE)
    assert not await first.renew(109.2)
    assert first.lease is None


async def test_a_lease_from_the_future_does_not_block_for_ever() -> None:
    store = MemoryRecords()
    assert await Leadership(store, "a", lease_s=5.0).seek(1e9)
    assert await Leadership(store, "b", lease_s=5.0).seek(100.0)


async def test_two_that_seek_at_once_do_not_both_lead() -> None:
    class Racing(MemoryRecords):
        """Both read before either writes."""

        async def read(self, key: str) -> StoredRecord | None:
            return None

    store = Racing()
    leads = [await Leadership(store, name, lease_s=5.0).seek(100.0) for name in "ab"]
    assert leads == [True, False]


# --- scale orders -------------------------------------------------------------------------------------------------


def test_names_fill_gaps() -> None:
    assert new_names(Role.DECODE, 2, ["decode-0", "decode-2"]) == ("decode-1", "decode-3")


async def test_orders_are_differences_and_of_the_highest_term() -> None:
    store = MemoryRecords()
    desk = ScaleDesk(store)
    await desk.add({WorkerId("decode-2"): Role.DECODE}, 5)
    await desk.remove(WorkerId("prefill-0"), 5)
    await desk.remove(WorkerId("prefill-0"), 5)
    assert await desk.read() == ScaleOrders(term=5, added={"decode-2": Role.DECODE}, removed=("prefill-0",))
    await desk.remove(WorkerId("decode-2"), 6)
    await desk.add({WorkerId("prefill-0"): Role.PREFILL}, 6)
    assert await desk.read() == ScaleOrders(term=6), "back to the plan"
    with pytest.raises(Unavailable, match="term 6"):
        await desk.add({WorkerId("x"): Role.DECODE}, 5)
    await overwrite(store, SCALE_RECORD, b"rubbish")
    assert read_orders(await store.read(SCALE_RECORD)) == ScaleOrders()


# --- records ------------------------------------------------------------------------------------------------------


async def test_a_record_is_written_only_over_what_was_read() -> None:
    store: RecordStore = MemoryRecords()
    assert (await store.write("k", b"1", expected_version=0)).done
    assert await store.write("k", b"2", expected_version=0) == Written(
        done=False, record=StoredRecord(version=1, value=b"1")
    )
    assert (await overwrite(store, "k", b"3")).version == 2
    with pytest.raises(Overloaded):
        for index in range(40):
            await store.write(f"k{index}", b"", expected_version=0)


# --- policies -----------------------------------------------------------------------------------------------------

GOOD = """
metadata: {name: NAME}
spec: {strategy: Load, pools: {prefill: {maxReplicas: 2}, decode: {maxReplicas: 2}}}
"""


def write(path: Path, text: str, *, at_s: int) -> None:
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at_s, at_s))


async def name_of(policies: Policies) -> str:
    policy = await policies.current()
    return "" if policy is None else policy.metadata.name


def swap(volume: Path, name: str, text: str) -> None:
    """Change a mounted ConfigMap as the kubelet does: a new folder, and one rename of the link to it.

    All files get the same time, as those of a volume that somebody else's tool unpacks.
    """
    old = (volume / "..data").resolve() if (volume / "..data").exists() else None
    payload = volume / f"..{name}"
    payload.mkdir()
    write(payload / "policy.yaml", text, at_s=1)
    (volume / "..data_tmp").symlink_to(payload.name)
    (volume / "..data_tmp").rename(volume / "..data")
    if old is None:
        (volume / "policy.yaml").symlink_to("..data/policy.yaml")
    else:
        shutil.rmtree(old)


async def test_a_mounted_config_map_is_read_again_when_the_kubelet_swaps_it(tmp_path: Path) -> None:
    """Size, time and name of the file stay the same."""
    policies = Policies(MemoryRecords(), tmp_path / "policy.yaml")
    assert await name_of(policies) == "", "not mounted yet"
    swap(tmp_path, "2026_01", GOOD.replace("NAME", "first"))
    assert await name_of(policies) == "first"
    swap(tmp_path, "2026_02", GOOD.replace("NAME", "other"))
    assert await name_of(policies) == "other"
    swap(tmp_path, "2026_03", GOOD.replace("NAME", "WRONG"))
    assert await name_of(policies) == "other"
    assert policies.problem
    swap(tmp_path, "2026_04", GOOD.replace("NAME", "third"))
    assert await name_of(policies) == "third"
    (tmp_path / "..data").unlink()
    assert await name_of(policies) == "third", "a volume that is gone changes nothing"


async def test_the_file_and_what_is_applied_whichever_changed_last(tmp_path: Path) -> None:
    store, file = MemoryRecords(), tmp_path / "p.yaml"
    policies = Policies(store, file)
    assert await name_of(policies) == ""
    write(file, GOOD.replace("NAME", "first"), at_s=1)
    assert await name_of(policies) == "first"
    write(file, "metadata: {nam: x}", at_s=2)
    assert await name_of(policies) == "first"
    assert "nam" in policies.problem
    await overwrite(store, "policy", GOOD.replace("NAME", "applied").encode())
    assert await name_of(policies) == "applied"
    assert policies.problem == ""
    assert await name_of(Policies(store, file)) == "applied", "also after a restart"
    write(file, GOOD.replace("NAME", "second"), at_s=3)
    assert await name_of(policies) == "second"
    file.unlink()
    assert await name_of(policies) == "second"
    await overwrite(store, "policy", b"\xff")
    assert await name_of(policies) == "second"
    assert policies.problem
