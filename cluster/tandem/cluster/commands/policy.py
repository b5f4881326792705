"""`tandem policy`: checks policies, compares them, makes them out of other autoscalers' files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tandem.cluster.commands.terminal import open_terminal
from tandem.controller.policy.convert.draft import render
from tandem.controller.policy.convert.hpa import SourceText, draft_from_hpas, is_hpa
from tandem.controller.policy.convert.ray_serve import draft_from_ray_serve
from tandem.controller.policy.diff import Scalar, differences
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.config.yaml_file import load_yaml_config, read_yaml_text
from tandem.core.environment import read_environment
from tandem.core.errors import ConfigError
from tandem.core.types import Role


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
    """Write a policy made from HorizontalPodAutoscalers or one Ray Serve file, to ``output`` or standard output."""
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
    output.write_text(text, encoding="utf-8")
    terminal.note(f"wrote {output}")


def _shown(value: Scalar) -> str:
    return "(not set)" if value is None else str(value)
