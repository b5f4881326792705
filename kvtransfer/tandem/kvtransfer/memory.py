"""How block memory is reached: two protocols that the owner of the block table implements. Zero copies, no torch."""

from typing import Protocol

from .grant import BlockRef
from .identity import TransferKey


class SourceBlocks(Protocol):
    """The sender's side of a block table. Called on the link thread, once per chunk."""

    def pin(self, ref: BlockRef, key: TransferKey) -> memoryview | None:
        """Return the block's bytes and keep them unchanged until ``unpin``; None if ``key`` no longer owns ``ref``.

        Check and pin happen in one critical section: a block freed meanwhile may be reused only after ``unpin``.
        """
        ...

    def unpin(self, ref: BlockRef, key: TransferKey) -> None:
        """End one ``pin``. Exactly one call per successful pin."""
        ...


class DestinationBlocks(Protocol):
    """The receiver's side of a block table. Called on the connection's thread, once per chunk."""

    def begin_write(self, ref: BlockRef, key: TransferKey) -> memoryview | None:
        """Return the block's writable bytes, if it is RECEIVING for ``key`` in this generation, else None.

        Until ``end_write`` the block may be freed, but not given to anybody else.
        """
        ...

    def end_write(self, ref: BlockRef, key: TransferKey) -> None:
        """End one ``begin_write``. Exactly one call per successful begin."""
        ...
