"""Worker to router: step reports and beats of the Attach stream."""

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Epoch, RequestId
from tandem.core.messages import (
    AttemptFailed,
    AttemptReleased,
    Beat,
    Granted,
    HandoverDone,
    PrefillDone,
    RequestEvent,
    StepReport,
    WorkerMessage,
)
from tandem.rpc.codec.token_batch import decode_token_batch, encode_token_batch
from tandem.rpc.codec.workers import ROLE, decode_load, encode_load
from tandem.worker.v1 import worker_pb2 as pb


def encode_worker_message(message: WorkerMessage) -> pb.AttachResponse:
    """Core to protobuf."""
    match message:
        case StepReport():
            return pb.AttachResponse(step=_encode_step(message))
        case Beat():
            beat = pb.Beat(
                worker_epoch=message.worker_epoch,
                role=ROLE.encode(message.role),
                draining=message.draining,
                load=encode_load(message.load),
                step_age_ms=message.step_age_ms,
            )
            return pb.AttachResponse(beat=beat)


def decode_worker_message(message: pb.AttachResponse) -> WorkerMessage:
    """Protobuf to core. Raises InvalidArgument for a message this release does not know."""
    match message.WhichOneof("message"):
        case "step":
            return _decode_step(message.step)
        case "beat":
            beat = message.beat
            return Beat(
                worker_epoch=Epoch(beat.worker_epoch),
                role=ROLE.decode(beat.role, field="beat.role"),
                draining=beat.draining,
                load=decode_load(beat.load),
                step_age_ms=beat.step_age_ms,
            )
        case _:
            raise InvalidArgument("message", "is not one this release knows", remedy="use one release on both sides")


def _encode_step(report: StepReport) -> pb.StepReport:
    return pb.StepReport(
        worker_epoch=report.worker_epoch,
        sequence=report.sequence,
        tokens=encode_token_batch(report.tokens) if report.tokens else None,
        events=[_encode_event(event) for event in report.events],
        load=None if report.load is None else encode_load(report.load),
    )


def _decode_step(message: pb.StepReport) -> StepReport:
    return StepReport(
        worker_epoch=Epoch(message.worker_epoch),
        sequence=message.sequence,
        tokens=decode_token_batch(message.tokens) if message.HasField("tokens") else (),
        events=tuple(_decode_event(event) for event in message.events),
        load=decode_load(message.load) if message.HasField("load") else None,
    )


def _encode_event(event: RequestEvent) -> pb.RequestEvent:
    match event:
        case Granted():
            granted = pb.Granted(request_id=event.request_id, attempt=event.attempt, grant=event.grant)
            return pb.RequestEvent(granted=granted)
        case PrefillDone():
            done = pb.PrefillDone(
                request_id=event.request_id,
                attempt=event.attempt,
                wait_ms=event.wait_ms,
                compute_ms=event.compute_ms,
                num_cached_tokens=event.num_cached_tokens,
                num_pinned_tokens=event.num_pinned_tokens,
            )
            return pb.RequestEvent(prefill_done=done)
        case HandoverDone():
            handover = pb.HandoverDone(
                request_id=event.request_id,
                attempt=event.attempt,
                num_bytes=event.num_bytes,
                transport=event.transport,
                handover_ms=event.handover_ms,
                exposed_ms=event.exposed_ms,
                num_skipped_blocks=event.num_skipped_blocks,
                num_skipped_bytes=event.num_skipped_bytes,
            )
            return pb.RequestEvent(handover_done=handover)
        case AttemptFailed():
            failed = pb.AttemptFailed(
                request_id=event.request_id,
                attempt=event.attempt,
                reason=event.reason,
                message=event.message,
                retryable=event.retryable,
                child=event.child,
                held=event.held,
            )
            return pb.RequestEvent(attempt_failed=failed)
        case AttemptReleased():
            released = pb.AttemptReleased(request_id=event.request_id, attempt=event.attempt)
            return pb.RequestEvent(attempt_released=released)


def _decode_event(message: pb.RequestEvent) -> RequestEvent:
    match message.WhichOneof("event"):
        case "granted":
            granted = message.granted
            return Granted(request_id=RequestId(granted.request_id), attempt=granted.attempt, grant=granted.grant)
        case "prefill_done":
            done = message.prefill_done
            return PrefillDone(
                request_id=RequestId(done.request_id),
                attempt=done.attempt,
                wait_ms=done.wait_ms,
                compute_ms=done.compute_ms,
                num_cached_tokens=done.num_cached_tokens,
                num_pinned_tokens=done.num_pinned_tokens,
            )
        case "handover_done":
            handover = message.handover_done
            return HandoverDone(
                request_id=RequestId(handover.request_id),
                attempt=handover.attempt,
                num_bytes=handover.num_bytes,
                transport=handover.transport,
                handover_ms=handover.handover_ms,
                exposed_ms=handover.exposed_ms,
                num_skipped_blocks=handover.num_skipped_blocks,
                num_skipped_bytes=handover.num_skipped_bytes,
            )
        case "attempt_failed":
            failed = message.attempt_failed
            return AttemptFailed(
                request_id=RequestId(failed.request_id),
                attempt=failed.attempt,
                reason=failed.reason,
                message=failed.message,
                retryable=failed.retryable,
                child=failed.child if failed.HasField("child") else None,
                held=failed.held,
            )
        case "attempt_released":
            released = message.attempt_released
            return AttemptReleased(request_id=RequestId(released.request_id), attempt=released.attempt)
        case _:
            raise InvalidArgument("event", "is not one this release knows", remedy="use one release on both sides")
