"""`tandem policy`: checks policies, compares them, applies them, makes them out of other autoscalers' files."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.terminal import open_terminal
from tandem.controller.policy.convert.draft import render
from tandem.controller.policy.convert.hpa import SourceText, draft_from_hpas, is_hpa
from tandem.controller.policy.convert.ray_serve import draft_from_ray_serve
from tandem.controller.policy.diff import Change, Scalar, differences
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.controller.policy.schema import SCHEMA_FILE, render_policy_schema
from tandem.core.config.yaml_file import load_yaml_config, parse_yaml_config, read_yaml_text
from tandem.core.environment import Environment, read_environment
from tandem.core.errors import ConfigError
from tandem.core.types import Role

_TIMEOUT_S = 10.0


def run_apply(file: Path, connection: Connection, *, dry_run: bool) -> None:
    """Check a policy and give it to the cluster; the running controller takes it up. Raises ConfigError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    text = read_yaml_text(file)
    policy = parse_yaml_config(text, AutoscalingPolicy, name=str(file))
    changes = asyncio.run(_changes(connection, environment, policy))
    for change in changes or ():
        terminal.say(f"{change.path}: {_shown(change.before)} → {_shown(change.after)}")
    if dry_run:
        terminal.note(f"{file}: ok; nothing was applied")
        return
    version = asyncio.run(_apply(connection, environment, text))
    what = "no difference" if changes is not None and not changes else policy.spec.mode.value
    terminal.say(f"{policy.metadata.name} applied ({what}), version {version}")
    state = connection.state(environment)
    if state is not None and not state.controlled:
        terminal.note(
            f"{state.name} runs no controller, so nothing follows this policy: set `controller: {{enabled: true}}` in"
            " its file and start it again (a policy that was applied is lost with the embedded registry)"
        )


async def _changes(
    connection: Connection, environment: Environment, policy: AutoscalingPolicy
) -> Sequence[Change] | None:
    """Return what is new in a policy; None = none was applied before, or none that can be read."""
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        record = await client.applied_policy()
    if record is None:
        return None
    try:
        before = parse_yaml_config(record.value.decode("utf-8"), AutoscalingPolicy, name="the applied policy")
    except (ConfigError, UnicodeDecodeError):
        return None
    return differences(before, policy)


async def _apply(connection: Connection, environment: Environment, text: str) -> int:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        return await client.apply_policy(text)


def run_validate(files: Sequence[Path]) -> None:
    """Say of each file that it is good. Raises ConfigError with every problem of every file, one a line."""
    terminal = open_terminal(read_environment())
    problems: list[str] = []
    for file in files:
        try:
            policy = load_yaml_config(file, AutoscalingPolicy)
        except ConfigError as error:
            problems.append(str(error))
        else:
            terminal.say(f"{file}: ok ({policy.metadata.name}, {policy.spec.strategy}, {policy.spec.mode})")
    if problems:
        raise ConfigError("\n".join(problems))


def run_diff(old: Path, new: Path, *, as_json: bool) -> bool:
    """Print what differs between two policies, defaults filled in; return whether anything does."""
    terminal = open_terminal(read_environment())
    changes = differences(load_yaml_config(old, AutoscalingPolicy), load_yaml_config(new, AutoscalingPolicy))
    if as_json:
        terminal.say(json.dumps({"changes": [asdict(change) for change in changes]}))
    else:
        for change in changes:
            terminal.say(f"{change.path}: {_shown(change.before)} → {_shown(change.after)}")
        if not changes:
            terminal.note("no difference")
    return bool(changes)


def run_convert(files: Sequence[Path], *, names: Mapping[Role, str], output: Path | None, force: bool) -> None:
    """Write a policy made from HorizontalPodAutoscalers or one Ray Serve file, to ``output`` or standard output.

    Beside ``output`` goes the schema that its first line names to editors. Raises ConfigError.
    """
    sources = [SourceText(name=str(file), text=read_yaml_text(file)) for file in files]
    if any(is_hpa(source) for source in sources):
        text = render(draft_from_hpas(sources, names))
    elif len(sources) == 1:
        text = render(draft_from_ray_serve(sources[0], names))
    else:
        raise ConfigError(
            f"{', '.join(map(str, files))}: no HorizontalPodAutoscaler in these files",
            remedy="give HorizontalPodAutoscalers (autoscaling/v2), or a single Ray Serve file",
        )
    terminal = open_terminal(read_environment())
    if output is None:
        terminal.stream(text)
        return
    if output.exists() and not force:
        raise ConfigError(f"{output}: exists already", remedy="choose another --output, or --force")
    schema = output.parent / SCHEMA_FILE
    try:
        output.write_text(text, encoding="utf-8")
        schema.write_text(render_policy_schema(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: can't write: {error.strerror}", remedy="choose another --output"
        ) from error
    terminal.note(f"wrote {output} and {schema}")


def _shown(value: Scalar) -> str:
    return "(not set)" if value is None else str(value)
