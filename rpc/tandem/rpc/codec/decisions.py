"""Decisions on the wire. The messages have the structs' field names, so one mapping by name serves all kinds.

A test holds both sides to each other: no field of a struct without one in its message, and none the other way.
"""

from collections.abc import Iterable, MutableMapping, MutableSequence
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from tandem.admin.v1 import decisions_pb2 as pb
from tandem.core.decisions import DETAILS, KINDS, Decision, DecisionFilter, DecisionPage
from tandem.core.errors import InvalidArgument

MAX_LIMIT = 10_000
DEFAULT_LIMIT = 100
MAX_RECORDED = 256
_MAX_TEXT = 256
_ENVELOPE = tuple(name for name in Decision.__struct_fields__ if name != "detail")
StructT = TypeVar("StructT", bound=msgspec.Struct)


def encode_decision(decision: Decision) -> pb.Decision:
    """Core to protobuf."""
    detail: dict[str, Any] = msgspec.to_builtins(decision.detail)
    kind = detail.pop("kind")
    values: dict[str, Any] = {name: getattr(decision, name) for name in _ENVELOPE}
    values[kind] = detail
    return pb.Decision(**values)


def decode_decision(message: pb.Decision) -> Decision:
    """Protobuf to core. Raises InvalidArgument for a kind that this release does not know."""
    kind = message.WhichOneof("detail")
    if kind is None:
        raise InvalidArgument("detail", "is of an unknown kind", remedy="use the same release on both sides")
    values = {name: getattr(message, name) for name in _ENVELOPE}
    return Decision(**values, detail=from_message(getattr(message, kind), DETAILS[kind]))  # type: ignore[arg-type]


def from_message(message: Message, kind: type[StructT]) -> StructT:
    """Return the struct with the message's fields; an unset field takes the struct's default."""
    return msgspec.convert(_plain(message), kind, strict=False)


def encode_filter(wanted: DecisionFilter) -> pb.DecisionFilter:
    """Core to protobuf."""
    return pb.DecisionFilter(**msgspec.to_builtins(wanted))


def decode_filter(message: pb.DecisionFilter) -> DecisionFilter:
    """Protobuf to core. Raises InvalidArgument naming what is wrong."""
    unknown = [kind for kind in message.kinds if kind not in DETAILS]
    if unknown:
        raise InvalidArgument("kinds", f"has {unknown[0][:40]!r}", remedy=f"use {', '.join(KINDS)}")
    if message.limit > MAX_LIMIT:
        raise InvalidArgument("limit", f"is {message.limit}", remedy=f"use at most {MAX_LIMIT}")
    for field in ("request_id", "tenant"):
        if len(getattr(message, field)) > _MAX_TEXT:
            raise InvalidArgument(field, "is too long", remedy=f"use at most {_MAX_TEXT} characters")
    wanted = from_message(message, DecisionFilter)
    return msgspec.structs.replace(wanted, limit=message.limit or DEFAULT_LIMIT)


def encode_page(page: DecisionPage) -> pb.DecisionPage:
    """Core to protobuf."""
    return pb.DecisionPage(
        decisions=[encode_decision(decision) for decision in page.decisions],
        num_forgotten=page.num_forgotten,
        num_unwritten=page.num_unwritten,
    )


def decode_page(message: pb.DecisionPage) -> DecisionPage:
    """Protobuf to core."""
    return DecisionPage(
        decisions=tuple(decode_decision(decision) for decision in message.decisions),
        num_forgotten=message.num_forgotten,
        num_unwritten=message.num_unwritten,
    )


def decode_recorded(decisions: Iterable[pb.Decision]) -> tuple[Decision, ...]:
    """What a controller told. Raises InvalidArgument for too many, or for what controllers do not decide."""
    told = tuple(decode_decision(decision) for decision in decisions)
    if len(told) > MAX_RECORDED:
        raise InvalidArgument("decisions", f"has {len(told)} entries", remedy=f"send at most {MAX_RECORDED} at once")
    for decision in told:
        if decision.kind != "controller" or decision.request_id or decision.tenant_hash:
            raise InvalidArgument(
                "decisions", f"has one of kind {decision.kind}", remedy="send rounds of a controller only"
            )
    return told


def _plain(message: Message) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            values[field.name] = _value(getattr(message, field.name))
    return values


def _value(value: object) -> object:
    """Plain values of one field, whose protobuf containers tell what it is: descriptors do not, in all releases."""
    if isinstance(value, Message):
        return _plain(value)
    if isinstance(value, MutableSequence):
        return [_value(item) for item in value]
    return dict(value) if isinstance(value, MutableMapping) else value
