"""Names of KV blocks and of who holds them: what engine and hand-over speak to each other in. Zero I/O."""

from dataclasses import dataclass

import msgspec

from tandem.core.ids import RequestId


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """Owner of blocks: one attempt of one request on one worker."""

    request_id: RequestId
    attempt: int


class BlockRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One use of one block. ``generation`` (u32) changes with every allocation, so an old reference never fits again.

    The worker's epoch completes the name between processes. A struct because there are very many of them, and the event
    log writes them as they are.
    """

    block_id: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """The first output token of one child, sampled where the prompt was computed.

    Its own KV is not part of the hand-over. A ``finished`` child ended with this token and never decodes.
    """

    child: int
    token_id: int
    finished: bool
