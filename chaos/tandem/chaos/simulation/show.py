"""Messages and frames in words, for replays."""

from tandem.core.messages import Abort, Command, ForwardGrant, StepReport
from tandem.kvtransfer.codec import HEADER_BYTES, decode, decode_header
from tandem.kvtransfer.errors import ProtocolViolation


def show_command(command: Command) -> str:
    """One line."""
    if isinstance(command, Abort):
        return f"Abort {command.request_id}/{command.attempt} {command.reason}"
    if isinstance(command, ForwardGrant):
        return f"ForwardGrant {command.request_id}/{command.attempt}"
    task = command.task
    more = "".join(
        f" {name}={value}"
        for name in ("source", "reuse_attempt")
        if (value := getattr(command, name, None)) is not None
    )
    emitted = sum(map(len, task.emitted))
    return f"{type(command).__name__} {task.request_id}/{task.attempt}{more} emitted={emitted}"


def show_report(report: StepReport) -> str:
    """One line."""
    events = [
        f"{type(event).__name__} {event.request_id}/{event.attempt} {getattr(event, 'reason', '')}".strip()
        for event in report.events
    ]
    tokens = [
        f"{d.request_id}/{d.attempt}.{d.child}@{d.position}{'' if d.finish_reason is None else ' ' + d.finish_reason}"
        for d in report.tokens
    ]
    return ", ".join((*events, *tokens))


def show_frame(frame: bytes) -> str:
    """One line."""
    try:
        header = decode_header(frame[:HEADER_BYTES])
        value = decode(header, frame[HEADER_BYTES:])
    except ProtocolViolation as error:
        return f"unreadable ({error.message})"
    tag = getattr(value, "tag", b"").hex()[:6]
    facts = [
        f"{name}={getattr(value, name)}"
        for name in ("request_id", "attempt", "seq", "first_seq", "block_id", "generation", "num_landed", "reason")
        if hasattr(value, name)
    ]
    return f"{type(value).__name__} {tag} {' '.join(facts)}"
