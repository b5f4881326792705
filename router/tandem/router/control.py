"""The router's side of the controller: its traffic, the share it is told to borrow, the records it keeps."""

from tandem.core.clock import Clock
from tandem.core.records import POLICY_RECORD, RecordStore, overwrite
from tandem.core.traffic import Guidance, StoredRecord, TrafficReport, Written
from tandem.core.types import PriorityClass
from tandem.router.dispatcher import Dispatcher
from tandem.router.traffic import TrafficMeter
from tandem.rpc.context import CallContext
from tandem.rpc.services.control import RecordWrite


class ControlFront:
    """Handler of ControlService."""

    def __init__(
        self, *, router_id: str, meter: TrafficMeter, dispatcher: Dispatcher, records: RecordStore, clock: Clock
    ) -> None:
        self._router_id = router_id
        self._meter = meter
        self._dispatcher = dispatcher
        self._records = records
        self._clock = clock

    async def get_traffic(self, window_s: float, call: CallContext) -> TrafficReport:
        """Tell what came and what became of it."""
        return self._meter.report(
            self._router_id,
            max(window_s, 0.0),
            queued_work_s=self._dispatcher.queue.work_ahead_s(PriorityClass.BATCH),
            borrow_share=self._dispatcher.fleet.borrowing.share(self._clock.now_s()),
        )

    async def set_guidance(self, guidance: Guidance, call: CallContext) -> int:
        """Follow a controller for a while, unless another one has a higher term."""
        now_s = self._clock.now_s()
        highest = self._dispatcher.fleet.borrowing.follow(guidance, now_s)
        if highest == guidance.term:
            self._dispatcher.admitting.follow(guidance, now_s)
        return highest

    async def get_record(self, key: str, call: CallContext) -> StoredRecord | None:
        """Read a record."""
        return await self._records.read(key)

    async def put_record(self, write: RecordWrite, call: CallContext) -> Written:
        """Write a record if nobody else did."""
        return await self._records.write(write.key, write.value, expected_version=write.expected_version)

    async def apply_policy(self, policy: bytes, call: CallContext) -> int:
        """Keep a policy for the controller, who checks it again."""
        return (await overwrite(self._records, POLICY_RECORD, policy)).version

    async def get_policy(self, call: CallContext) -> StoredRecord | None:
        """Return the policy applied last."""
        return await self._records.read(POLICY_RECORD)
