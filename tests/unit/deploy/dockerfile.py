"""A reader of Dockerfiles: instructions by stage, with comments, continuation lines and build arguments resolved."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A FROM with what follows it."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def values(self, name: str) -> list[str]:
        """Arguments of all instructions of one kind, in order."""
        return [i.value for i in self.instructions if i.name == name]

    def last(self, name: str) -> str:
        """The argument that is in force at the end."""
        return self.values(name)[-1]


def instructions(text: str) -> list[Instruction]:
    """Split a Dockerfile; raises ValueError for a line that is no instruction."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        parsed = re.fullmatch(r"([A-Z]+)\s+(.*)", line.strip())
        if parsed is None:
            raise ValueError(f"not an instruction: {line}")
        found.append(Instruction(name=parsed[1], value=parsed[2]))
    return found


def read_stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, with global build arguments filled in in their FROM lines."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    current: list[Instruction] = []
    for instruction in [*instructions(path.read_text(encoding="utf-8")), Instruction(name="FROM", value="")]:
        if instruction.name != "FROM":
            if not stages and instruction.name == "ARG":
                name, _, default = instruction.value.partition("=")
                arguments[name] = default.strip('"')
            current.append(instruction)
            continue
        if stages:
            stages[-1] = Stage(name=stages[-1].name, base=stages[-1].base, instructions=tuple(current))
        current = []
        base, _, name = instruction.value.partition(" AS ")
        stages.append(Stage(name=name, base=_fill(base, arguments), instructions=()))
    return stages[:-1]


def _fill(text: str, arguments: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], text)
