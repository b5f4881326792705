"""Decisions on the wire: nothing is lost, nothing unknown comes in, and both sides have the same fields."""

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.admin.v1 import decisions_pb2 as pb
from tandem.core.decisions import (
    DETAILS,
    Admission,
    ControllerRound,
    Decision,
    DecisionFilter,
    DecisionPage,
    DecodeCandidate,
    Detail,
    PrefillCandidate,
)
from tandem.core.errors import InvalidArgument
from tandem.rpc.codec.decisions import (
    decode_decision,
    decode_filter,
    decode_page,
    decode_recorded,
    encode_decision,
    encode_filter,
    encode_page,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**32 - 1),
    float: st.floats(allow_nan=False),
    str: TEXT,
    bool: st.booleans(),
}


def strategy_of(kind: Any) -> st.SearchStrategy[Any]:
    if kind in SIMPLE:
        return SIMPLE[kind]
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return st.lists(strategy_of(arguments[0]), max_size=2).map(tuple)
    if type(None) in arguments:
        return st.none() | strategy_of(arguments[0])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return struct_of(kind)
    return st.dictionaries(TEXT, SIMPLE[float], max_size=2)


def struct_of(kind: Any) -> st.SearchStrategy[Any]:
    fields = {field.encode_name: strategy_of(field.type) for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)


DETAIL = st.one_of([struct_of(kind) for kind in DETAILS.values()])
DECISION = st.builds(
    Decision,
    sequence=st.integers(0, 2**63),
    unix_s=SIMPLE[float],
    source=TEXT,
    reason=TEXT,
    detail=DETAIL,
    request_id=TEXT,
    tenant_hash=TEXT,
    priority=TEXT,
)


@given(st.lists(DECISION, max_size=3).map(tuple), st.integers(0, 2**63))
def test_a_page_comes_back_as_it_was(decisions: tuple[Decision, ...], count: int) -> None:
    page = DecisionPage(decisions=decisions, num_forgotten=count, num_unwritten=1)
    assert decode_page(pb.DecisionPage.FromString(encode_page(page).SerializeToString())) == page


def test_messages_have_the_structs_fields_and_no_others() -> None:
    pairs: dict[Any, Any] = {PrefillCandidate: pb.PrefillCandidate, DecodeCandidate: pb.DecodeCandidate}
    pairs |= {kind: getattr(pb, kind.__name__) for kind in DETAILS.values()}
    for kind, message in pairs.items():
        assert list(kind.__struct_fields__) == [field.name for field in message.DESCRIPTOR.fields], kind
    envelope = {field.name for field in pb.Decision.DESCRIPTOR.fields} - set(DETAILS)
    assert envelope == set(Decision.__struct_fields__) - {"detail"}
    oneof = pb.Decision.DESCRIPTOR.oneofs_by_name["detail"]
    assert [field.name for field in oneof.fields] == list(DETAILS)
    assert set(typing.get_args(Detail)) == set(DETAILS.values())


def test_a_kind_of_a_later_release_is_named_as_such() -> None:
    with pytest.raises(InvalidArgument, match="unknown kind"):
        decode_decision(pb.Decision(sequence=1))


def test_filters_are_checked() -> None:
    wanted = DecisionFilter(kinds=("placement",), request_id="r", tenant="t", since_unix_s=1.5, limit=7)
    assert decode_filter(encode_filter(wanted)) == wanted
    assert decode_filter(pb.DecisionFilter()) == DecisionFilter(limit=100)
    bad = [
        (pb.DecisionFilter(kinds=["gossip"]), "kinds"),
        (pb.DecisionFilter(limit=10_001), "limit"),
        (pb.DecisionFilter(tenant="t" * 257), "tenant"),
    ]
    for message, field in bad:
        with pytest.raises(InvalidArgument, match=field):
            decode_filter(message)


def test_controllers_tell_rounds_and_nothing_else() -> None:
    told = ControllerRound(term=1, policy="p", verdict="hold", current_prefill=1, current_decode=2)
    mine = Decision(sequence=0, unix_s=1.0, source="", reason="why", detail=told)
    assert decode_recorded([encode_decision(mine)]) == (mine,)
    other = Decision(sequence=0, unix_s=1.0, source="", reason="why", detail=Admission(taken=True, cause="room"))
    about_someone = msgspec.structs.replace(mine, request_id="r")
    for wrong in ([other], [about_someone], [mine] * 257):
        with pytest.raises(InvalidArgument, match="decisions"):
            decode_recorded([encode_decision(decision) for decision in wrong])
