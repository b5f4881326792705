"""Decisions in words, what may be typed to find them, and the view of `tandem top`."""

from io import StringIO

import msgspec
import pytest
from rich.console import Console

from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.decision_words import decision_line, life_lines
from tandem.cluster.commands.decisions import filter_of, run_explain
from tandem.cluster.commands.top_view import sparkline, top_view
from tandem.core.cluster import ClusterStatus
from tandem.core.decisions import (
    DETAILS,
    Admission,
    ControllerRound,
    Decision,
    Detail,
    Finished,
    HandoverFailed,
    Placed,
    PrefillCandidate,
    Recovery,
    Waiting,
    WorkerJudged,
)
from tandem.core.errors import InvalidArgument
from tandem.core.watching import ClassSample, ClusterSample

PLACED = Placed(
    attempt=1,
    cause="pair",
    decode="decode-1",
    prefill="prefill-0",
    prompt_tokens=300,
    num_sequences=1,
    growth_tokens=16,
    waited_s=0.02,
    num_waiting=3,
    predicted_ttft_s=0.04,
    predicted_prefill_s=0.03,
    predicted_handover_s=0.005,
    cached_tokens=64,
    num_prefills=12,
    prefills=(
        PrefillCandidate(worker="prefill-0", queued_s=0.01, compute_s=0.03, delay_s=0.0, cached_tokens=64, cost_s=0.04),
    ),
)
SAYS: list[tuple[Detail, str]] = [
    (Admission(taken=False, cause="queue_wait", wait_s=12.0, bound_s=10.0), "not admitted (queue wait)"),
    (Waiting(attempt=0, num_waiting=2, waits_for="prefill-1"), "waits for prefill-1"),
    (PLACED, "attempt 2, prompt on prefill-0, answer on decode-1 (pair)"),
    (Recovery(failed_attempt=0, cause="KV_TIMEOUT"), "attempt 1 is over (KV_TIMEOUT)"),
    (HandoverFailed(prefill="p", decode="d", cause="KV_TIMEOUT", state="open"), "hand-over p → d failed (KV_TIMEOUT)"),
    (WorkerJudged(worker="decode-0", worker_epoch=1, health="dead"), "decode-0 is dead"),
    (Finished(outcome="failed", cause="NUMERICS"), "ended failed (NUMERICS)"),
    (
        ControllerRound(
            term=3,
            policy="p",
            verdict="move",
            current_prefill=2,
            current_decode=6,
            wished_prefill=4,
            wished_decode=4,
            move="decode-5 becomes a prefill worker",
            clamps=("one at a time",),
        ),
        "move decode-5 becomes a prefill worker (now 2:6, wished 4:4, held back by one at a time)",
    ),
]


def decided(detail: Detail, *, at_s: float = 0.0) -> Decision:
    return Decision(
        sequence=1, unix_s=1e9 + at_s, source="router-0", reason="why", detail=detail, request_id="r", priority="batch"
    )


@pytest.mark.parametrize(("detail", "words"), SAYS)
def test_every_kind_has_words(detail: Detail, words: str) -> None:
    line = decision_line(decided(detail))
    assert words in line
    assert line.endswith(": why")
    assert len(life_lines([decided(detail)])) >= 4
    assert {type(one) for one, _ in SAYS} == set(DETAILS.values())


def test_a_life_says_what_was_predicted_and_measured_and_what_is_missing() -> None:
    end = Finished(
        outcome="ok", num_attempts=2, prompt_tokens=300, cached_tokens=64, output_tokens=9, predicted_ttft_s=0.04,
        predicted_prefill_s=0.03, prefill_ms=33.0, ttft_ms=71.5, total_ms=200.0,
    )  # fmt: skip
    lines = life_lines([decided(PLACED), decided(end, at_s=0.2)])
    assert lines[0] == "request r: ok"
    assert lines[2] == "what came before is forgotten"
    text = "\n".join(lines)
    for words in (
        "300 tokens to read, 64 of them cached at prefill-0; 16 expected to be written",
        "11 further workers were looked at",
        "2 attempts; 300 prompt tokens, 64 from the cache; 9 tokens written",
        "first token  60.0       71.5",  # waited 20 ms, then predicted 40 ms
        "prefill      30.0       33.0",
        "+   0.200 s  ended ok: why",
    ):
        assert words in text
    refused = life_lines([decided(Admission(taken=False, cause="slo"))])
    assert refused[0] == "request r: not admitted"
    assert "what came before is forgotten" not in refused


def test_a_refusal_says_when_to_come_back_or_to_stay_away() -> None:
    refused = Admission(taken=False, cause="queue_wait", num_queued=1, wait_s=12.0, retry_after_s=4.0)
    assert "1 request waited" in "\n".join(life_lines([decided(refused)]))
    assert "may come again in 4.0 s" in "\n".join(life_lines([decided(refused)]))
    storm = msgspec.structs.replace(refused, retry_after_s=None)
    assert "asked not to come again by itself" in "\n".join(life_lines([decided(storm)]))
    invalid = Admission(taken=False, cause="invalid_argument")
    assert "come again" not in "\n".join(life_lines([decided(invalid)]))
    assert "come again" not in "\n".join(life_lines([decided(Admission(taken=True, cause="fits", wait_s=1.0))]))


def test_who_gave_its_place_away_waits_for_its_turn() -> None:
    lost = Recovery(failed_attempt=0, cause="KV_TIMEOUT", emitted_tokens=3)
    assert "3 tokens had been sent; it is placed again at once" in "\n".join(life_lines([decided(lost)]))
    yielded = msgspec.structs.replace(lost, cause="YIELDED")
    assert "it is placed again when its turn comes" in "\n".join(life_lines([decided(yielded)]))


@pytest.mark.parametrize(
    ("own", "words"), [("prefill-0", "in 3.0 ms: the same"), ("prefill-7", "in 3.0 ms: instead of prefill-7")]
)
def test_a_placement_says_what_the_routers_agreed_on(own: str, words: str) -> None:
    placed = msgspec.structs.replace(PLACED, own_prefill=own, asked_s=0.003)
    assert f"agreed with the other routers {words}" in "\n".join(life_lines([decided(placed)]))
    assert "agreed" not in "\n".join(life_lines([decided(PLACED)]))


def test_what_is_typed_is_checked() -> None:
    wanted = filter_of(kinds=["end"], request="r", tenant="acme", since="2026-11-23T00:00:00+00:00", limit=5)
    assert (wanted.since_unix_s, wanted.kinds) == (1795392000.0, ("end",))
    ago = filter_of(kinds=[], request="", tenant="", since="5m", limit=5).since_unix_s
    assert ago is not None
    for bad, field in (({"kinds": ["gossip"]}, "--kind"), ({"since": "yesterday"}, "--since")):
        with pytest.raises(InvalidArgument) as caught:
            filter_of(**{"kinds": [], "request": "", "tenant": "", "since": "", "limit": 5, **bad})  # type: ignore[arg-type]
        assert caught.value.field == field
    with pytest.raises(InvalidArgument, match="32 hexadecimal digits"):
        run_explain([Connection()], "../etc/passwd", as_json=False)


def test_curves() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([0.0, 1.0, None, 2.0, 4.0]) == "▁▃·▅█"


def test_top_counts_the_shed_as_promises_not_kept() -> None:
    samples = [
        ClusterSample(
            unix_s=100.0 + 2.0 * at,
            period_s=2.0,
            num_prefill=2,
            num_decode=6,
            output_tokens=100,
            prompt_tokens=100,
            cached_tokens=25,
            num_split=3,
            num_local=1,
            classes=(
                ClassSample(priority="interactive", num_queued=4, num_ok=2, num_shed=2, num_in_time=2, ttft_p50_s=0.1),
            ),
        )
        for at in range(3)
    ]
    status = ClusterStatus(model="m[bold]", ready=True, router_id="router-0", uptime_s=61.0)
    out = StringIO()
    Console(file=out, width=120).print(top_view(status, samples))
    shown = out.getvalue()
    for words in (
        "m[bold]  ready",
        "2 : 6",
        "50.0%",
        "25.0%",
        "75.0%",
        "100 ms",
        "interactive │      4 │          6 │    6",
    ):
        assert words in shown, shown
    Console(file=StringIO(), width=120).print(top_view(status, []))  # a router that has just begun
