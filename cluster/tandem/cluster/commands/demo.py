"""`tandem demo`: a real model, split over one prefill and one decode worker, with nothing to configure."""

import asyncio
import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.client import AsyncClient, OutputDelta, StreamCompleted
from tandem.cluster.commands.checks import port_is_free
from tandem.cluster.commands.report import served_line, timing_lines, usage_line
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.cluster.config.model import (
    ClusterConfig,
    Metadata,
    ModelSection,
    RuntimeSection,
)
from tandem.cluster.run_state import RunStates
from tandem.cluster.session import LiveCluster, live_cluster
from tandem.core.config.units import parse_bytes
from tandem.core.environment import read_environment
from tandem.core.errors import InternalError
from tandem.engine.config import EngineConfig
from tandem.router.config import PlacementSection, RouterConfig
from tandem.router.placement import PlacementMode

PORT = 8700
NAME = "demo"
_ANSWER_S = 120.0
_MAX_TOKENS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What the person asked for."""

    once: bool
    runtime: str  # "local" or "ray"
    question: str
    source: str


def run_demo(plan: DemoPlan) -> None:
    """Run the demo. Raises TandemError, or Interrupted when it was ended before it had answered."""
    asyncio.run(_demo(plan))


def demo_config(plan: DemoPlan, *, name: str, port: int) -> ClusterConfig:
    """Return the demo's cluster. Always split, so that what it shows is a hand-over."""
    return ClusterConfig(
        metadata=Metadata(name=name),
        model=ModelSection(source=plan.source),
        runtime=RuntimeSection.model_validate({"kind": plan.runtime, "stop_timeout_s": 20.0}),
        router=RouterConfig(port=port, placement=PlacementSection(mode=PlacementMode.SPLIT)),
        # A small pool and a short profile: what matters here is to be up soon.
        engine=EngineConfig.model_validate({"kv_memory_bytes": parse_bytes("128MiB"), "profile_budget_s": 0.4}),
    )


async def _demo(plan: DemoPlan) -> None:
    began_s = time.monotonic()
    environment = read_environment()
    terminal = open_terminal(environment)
    progress = terminal.progress()
    taken = {state.name for state in RunStates(environment.run_folder).running()}
    port = PORT if port_is_free(PORT) else 0
    if port == 0:
        progress.warn(f"port {PORT} is in use; taking a free one")
    shown: dict[str, Any] = {}
    config = demo_config(plan, name=NAME if NAME not in taken else f"{NAME}-{os.getpid()}", port=port)
    try:
        async with live_cluster(config, environment=environment, progress=progress) as cluster:
            shown = await cluster.interrupts.unless_stopped(_show(plan, cluster, terminal, began_s))
            if not plan.once:
                terminal.note("\nup until Ctrl-C")
                await cluster.watch()
        shutil.rmtree(cluster.state.log_folder, ignore_errors=True)  # it ended well: nobody will ask for its logs
    finally:
        progress.stop()
    if plan.once:  # for programs: last of all, once everything has ended
        terminal.say(json.dumps(shown))


async def _show(plan: DemoPlan, cluster: LiveCluster, terminal: Terminal, began_s: float) -> dict[str, Any]:
    """Ask, stream the answer, show where the time went; return the figures."""
    async with AsyncClient(cluster.state.public_address, timeout_s=_ANSWER_S) as client:
        asked = await _ask(plan.question, client, terminal)
    completed, timings = asked.completed, asked.completed.timings
    first_token_s = asked.first_token_s - began_s
    terminal.note(f"\nfirst token {first_token_s:.1f} s after the start of the command")
    terminal.say()
    for line in timing_lines(timings):
        terminal.say(f"  {line}")
    transport = "shared memory" if cluster.transport == "shm" else cluster.transport
    terminal.say(f"  {served_line(completed.workers, transport=f'KV over {transport}')}")
    terminal.say(f"  {usage_line(completed.usage, timings)}")
    if timings.handover_ms is None:
        raise InternalError("the demo was not served by a pair of workers")
    address, name = cluster.state.public_address, cluster.state.name
    if not plan.once:
        terminal.say("\nTry, in another terminal:")
    else:  # this cluster is about to end: what is printed is for the next one, at its usual place
        terminal.say("\nTry, while `tandem demo` (without --once) runs:")
        address, name = f"127.0.0.1:{PORT}", NAME
    for line in paste_lines(address, name):
        terminal.say(f"  {line}")
    return {
        "runtime": plan.runtime,
        "model": cluster.state.model,
        "ready_s": round(cluster.started_in_s, 2),
        "first_token_s": round(first_token_s, 2),
        "prefill_worker": completed.workers.prefill_worker,
        "decode_worker": completed.workers.decode_worker,
        "transport": cluster.transport,
        **asdict(timings),
        **asdict(completed.usage),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What came of the question."""

    completed: StreamCompleted
    first_token_s: float  # on the monotonic clock


async def _ask(question: str, client: AsyncClient, terminal: Terminal) -> _Asked:
    """Ask through the SDK and stream the answer. Raises TandemError."""
    terminal.say(f"\n{terminal.bold('>')} {question}")
    first_s: float | None = None
    completed: StreamCompleted | None = None
    call = client.stream(messages=[{"role": "user", "content": question}], max_tokens=_MAX_TOKENS, temperature=0.0)
    async with call as stream:
        async for event in stream:
            if isinstance(event, OutputDelta):
                first_s = first_s or time.monotonic()
                terminal.stream(event.text)
            elif isinstance(event, StreamCompleted):
                completed = event
    terminal.say()
    if completed is None or first_s is None:
        raise InternalError("the stream ended without an answer")
    return _Asked(completed=completed, first_token_s=first_s)


def paste_lines(address: str, name: str) -> list[str]:
    """Return commands that work as they are printed."""
    command = command_line()
    python = shlex.quote(_short(Path(sys.executable)))
    code = f"from tandem.client import Client; print(Client('{address}').generate('The capital of France is').text)"
    chosen = "" if name == NAME else f" --name {name}"
    return [
        f'{command} generate --chat "Tell me a joke about bicycles."{chosen}',
        f'{python} -c "{code}"',
        f"{command} status{chosen}",
    ]


def command_line() -> str:
    """Return what to type for this very `tandem`: its name if that finds it, else its path."""
    found = shutil.which("tandem")
    beside = Path(sys.executable).with_name("tandem")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "tandem"
    return (
        shlex.quote(_short(beside))
        if beside.exists()
        else f"{shlex.quote(_short(Path(sys.executable)))} -m tandem.cluster"
    )


def _short(path: Path) -> str:
    """Return the path relative to here where that is shorter to type."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
