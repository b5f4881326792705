"""A call with an idempotency key whose router is killed: its caller sends it again to the next router (row 44)."""

import asyncio
import secrets
from typing import Final

from benchmarks.fault_matrix.scene import Scene
from benchmarks.fault_matrix.world import probe_prompt
from tandem.chaos.cluster import RequestSpec
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.processes import Kill
from tandem.core.errors import TandemError
from tandem.core.event_log.events import RequestAccepted
from tandem.core.inference import OutputDelta
from tandem.core.types import StopParams

_KILLED_AFTER_TOKENS: Final = 5
_CALL_S: Final = 60.0


class KilledUnderAKey:
    """Sends one keyed call three times: to a router that dies, to its successor, and there once more."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._spec = RequestSpec(
            prompt=probe_prompt(95, seed=44), stop=StopParams(max_tokens=100, ignore_eos=True), label="keyed"
        )
        self._key = secrets.token_hex(8)
        self._kill: Kill | None = None
        self._is_back = False
        self._said: list[list[int]] = []
        self._ends: list[str] = []

    async def begin(self) -> None:
        """Do all of it."""
        cluster = self._scene.world.cluster
        await self._ask(kill_after=_KILLED_AFTER_TOKENS)
        await self.end()
        for _ in range(2):
            await self._ask()
        await cluster.settled(timeout_s=_CALL_S)

    async def end(self) -> None:
        """Start the next router, once."""
        if self._kill is not None and not self._is_back:
            self._is_back = True
            await self._scene.world.cluster.restart_router()
            await self._scene.world.fresh_client()

    async def _ask(self, *, kill_after: int | None = None) -> None:
        """Send the call; note what came and how it ended."""
        tokens: list[int] = []
        self._said.append(tokens)
        client = self._scene.world.client.with_options(timeout_s=_CALL_S)
        try:
            options = self._spec.options()
            options["idempotency_key"] = self._key
            async with client.stream(token_ids=self._spec.prompt, **options) as stream:
                async for event in stream:
                    if isinstance(event, OutputDelta):
                        tokens += event.token_ids
                    if kill_after is not None and len(tokens) >= kill_after and self._kill is None:
                        await self._kill_router()
            self._ends.append("OK")
        except TandemError as error:
            self._ends.append(error.reason)

    async def _kill_router(self) -> None:
        world = self._scene.world
        pid = world.cluster.router_pid
        world.killed_pids.add(pid)
        self._kill = await asyncio.to_thread(Kill, pid)

    def verify(self) -> Evidence:
        """The first try broke off right, the second was answered whole, the third was refused; each life took one."""
        (expected,) = self._scene.world.cluster.oracle.expected(self._spec.task())
        whole = list(expected.token_ids)
        takers = [r.epoch for r in self._scene.events("router") if isinstance(r.event, RequestAccepted)]
        is_shown = (
            self._kill is not None
            and self._kill.verify().took_effect
            and self._ends[1:] == ["OK", "ALREADY_ANSWERED"]
            and self._ends[0] in ("UNAVAILABLE", "UNREACHABLE")
            and _KILLED_AFTER_TOKENS <= len(self._said[0]) < len(whole)
            and self._said[0] == whole[: len(self._said[0])]
            and self._said[1:] == [whole, []]
            and len(set(takers)) == len(takers[:2]) == 2
        )
        counts = [len(tokens) for tokens in self._said]
        return Evidence(
            took_effect=is_shown,
            facts=f"tries ended {self._ends} with {counts} of {len(whole)} tokens; taken by {len(set(takers))} lives",
        )
