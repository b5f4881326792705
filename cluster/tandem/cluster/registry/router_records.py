"""Records in a router's memory, as the controller and the supervisor reach them over gRPC."""

import grpc.aio

from tandem.core.traffic import StoredRecord, Written
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.control import ControlStub
from tandem.rpc.tls import TlsMaterial

_TIMEOUT_S = 2.0


class RouterRecords:
    """A `RecordStore` at one router. Raises Unavailable while it is away; a router that restarts has forgotten all."""

    def __init__(self, address: str, *, tls: TlsMaterial | None, insecure: bool) -> None:
        self._channel: grpc.aio.Channel = open_channel(address, tls=tls, insecure=insecure)
        self._stub = ControlStub(self._channel)

    async def read(self, key: str) -> StoredRecord | None:
        """Return a record; None = there is none."""
        return await self._stub.get_record(key, timeout_s=_TIMEOUT_S)

    async def write(self, key: str, value: bytes, *, expected_version: int) -> Written:
        """Write if ``expected_version`` is stored now."""
        return await self._stub.put_record(key, value, expected_version=expected_version, timeout_s=_TIMEOUT_S)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)
