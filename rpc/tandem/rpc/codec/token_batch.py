"""The token deltas of one step as parallel arrays: the hot path between worker and router.

Picture of a batch with three deltas of two requests, the last one with two tokens::

    request_ids    [ a , b ]        attempts   [ 0 , 1 ]
    request_index  [ 0 , 1 , 1 ]    child      [ 0 , 0 , 1 ]    position [ 7 , 3 , 3 ]
    num_tokens     [ 1 , 1 , 2 ]    (left out when every delta has one token)
    token_ids      [ x , y , z , w ]
    text           [ "…", "…", "…" ]
    extras         the few deltas that finished or carry log-probabilities, by delta index
"""

from collections.abc import Iterable, Iterator, Sequence

from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId
from tandem.core.types import FinishReason, PositionLogprobs, TokenDelta, TokenLogprob
from tandem.rpc.codec.enums import EnumCodec
from tandem.worker.v1 import worker_pb2 as pb

FINISH = EnumCodec(
    {
        FinishReason.STOP: pb.FINISH_REASON_STOP,
        FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
        FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
    }
)


def encode_token_batch(deltas: Sequence[TokenDelta]) -> pb.TokenBatch:
    """Core to protobuf; order is kept."""
    requests: dict[tuple[RequestId, int], int] = {}
    request_index: list[int] = []
    children: list[int] = []
    positions: list[int] = []
    num_tokens: list[int] = []
    token_ids: list[int] = []
    texts: list[str] = []
    extras: list[pb.DeltaExtra] = []
    for delta_index, delta in enumerate(deltas):
        request_index.append(requests.setdefault((delta.request_id, delta.attempt), len(requests)))
        children.append(delta.child)
        positions.append(delta.position)
        num_tokens.append(len(delta.token_ids))
        token_ids += delta.token_ids
        texts.append(delta.text)
        if delta.finish_reason is not None or delta.logprobs or delta.matched_stop is not None:
            extras.append(_encode_extra(delta_index, delta))
    return pb.TokenBatch(
        request_ids=[request_id for request_id, _ in requests],
        attempts=[attempt for _, attempt in requests],
        request_index=request_index,
        child=children,
        position=positions,
        num_tokens=() if all(count == 1 for count in num_tokens) else num_tokens,
        token_ids=token_ids,
        text=texts,
        extras=extras,
    )


def decode_token_batch(batch: pb.TokenBatch) -> tuple[TokenDelta, ...]:
    """Protobuf to core. Raises InvalidArgument when the arrays do not fit each other."""
    request_ids = [RequestId(request_id) for request_id in batch.request_ids]
    attempts = list(batch.attempts)
    rows: Iterable[tuple[int, int, int, tuple[int, ...], str]] = zip(
        batch.request_index, batch.child, batch.position, _token_groups(batch), batch.text, strict=True
    )
    extras = {extra.delta_index: extra for extra in batch.extras}
    try:
        deltas = [
            TokenDelta(
                request_id=request_ids[index],
                attempt=attempts[index],
                child=child,
                position=position,
                token_ids=tokens,
                text=text,
            )
            for index, child, position, tokens, text in rows
        ]
        for delta_index, extra in extras.items():
            deltas[delta_index] = _with_extra(deltas[delta_index], extra)
    except (ValueError, IndexError) as error:
        raise InvalidArgument("tokens", "has arrays that do not fit each other") from error
    return tuple(deltas)


def _token_groups(batch: pb.TokenBatch) -> Iterator[tuple[int, ...]]:
    if not batch.num_tokens:
        return zip(batch.token_ids, strict=True)
    return _split(list(batch.token_ids), batch.num_tokens)


def _split(token_ids: list[int], counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if sum(counts) != len(token_ids):
        raise InvalidArgument("tokens.num_tokens", f"sums to {sum(counts)}, not to {len(token_ids)} token ids")
    start = 0
    for count in counts:
        yield tuple(token_ids[start : start + count])
        start += count


def _encode_extra(delta_index: int, delta: TokenDelta) -> pb.DeltaExtra:
    return pb.DeltaExtra(
        delta_index=delta_index,
        finish_reason=None if delta.finish_reason is None else FINISH.encode(delta.finish_reason),
        matched_stop=delta.matched_stop,
        logprobs=[
            pb.PositionLogprobs(
                chosen=pb.TokenLogprob(token_id=at.chosen.token_id, logprob=at.chosen.logprob),
                top=[pb.TokenLogprob(token_id=token.token_id, logprob=token.logprob) for token in at.top],
            )
            for at in delta.logprobs
        ],
    )


def _with_extra(delta: TokenDelta, extra: pb.DeltaExtra) -> TokenDelta:
    return TokenDelta(
        request_id=delta.request_id,
        attempt=delta.attempt,
        child=delta.child,
        position=delta.position,
        token_ids=delta.token_ids,
        text=delta.text,
        logprobs=tuple(
            PositionLogprobs(
                chosen=TokenLogprob(token_id=at.chosen.token_id, logprob=at.chosen.logprob),
                top=tuple(TokenLogprob(token_id=token.token_id, logprob=token.logprob) for token in at.top),
            )
            for at in extra.logprobs
        ),
        finish_reason=FINISH.decode(extra.finish_reason, field="finish_reason") if extra.finish_reason else None,
        matched_stop=extra.matched_stop if extra.HasField("matched_stop") else None,
    )
