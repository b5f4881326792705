"""Whatever bytes arrive, a decoder answers with a value or with InvalidArgument, never with anything else."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.errors import FailedPrecondition, InvalidArgument
from tandem.core.inference import DetokenizeRequest
from tandem.rpc.stubs import public
from tandem.rpc.wire import read_message
from tests.unit.rpc.test_codec import PAIRS

METHODS = [
    public.GENERATE,
    public.STREAM_GENERATE,
    public.TOKENIZE,
    public.DETOKENIZE,
    public.LIST_MODELS,
    public.GET_STATUS,
    public.CHECK_SERVING,
]


@pytest.mark.parametrize("name", PAIRS)
@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=60))
def test_random_bytes(name: str, data: bytes) -> None:
    _, _, wire, decode = PAIRS[name]
    with suppress(InvalidArgument):
        read_message(wire, data, decode)


@pytest.mark.parametrize("name", PAIRS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_flipped_byte_or_a_cut(name: str, data: st.DataObject) -> None:
    strategy, encode, wire, decode = PAIRS[name]
    good: bytes = encode(data.draw(strategy)).SerializeToString()
    if not good:
        return
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    for broken in (flipped, good[:place]):
        with suppress(InvalidArgument):
            read_message(wire, broken, decode)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
@settings(deadline=None, max_examples=40)
@given(data=st.binary(max_size=60))
def test_an_answer_that_cannot_be_read_names_the_releases(method: public.Method[Any, Any], data: bytes) -> None:
    with suppress(FailedPrecondition):
        method.decode(data)
    with pytest.raises(FailedPrecondition, match="different releases"):
        method.decode(b"\xff" + data)


def test_deep_nesting_is_refused() -> None:
    """No message of ours can hold itself, so unknown nested groups are all a bomb can be made of."""
    bomb = b"\x7b" * 10_000  # start-group of an unknown field, never ended
    for name in PAIRS:
        _, _, wire, decode = PAIRS[name]
        with pytest.raises(InvalidArgument):
            read_message(wire, bomb, decode)


def test_what_cannot_be_encoded_is_the_callers_fault() -> None:
    with pytest.raises(InvalidArgument, match="can't be sent"):
        public.DETOKENIZE.encode(DetokenizeRequest(token_ids=(-1,)))
    with pytest.raises(InvalidArgument, match="can't be sent"):
        public.DETOKENIZE.encode(DetokenizeRequest(token_ids=(1,), model="\udc80"))
