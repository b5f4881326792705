"""Reads a YAML file into a config model; every complaint begins with ``file:line:col`` and offers the nearest key.

Safe YAML only: no tags, no aliases (an alias can blow a small file up to gigabytes), at most 1 MiB. Plain words mean
what YAML 1.2 and editors say: ``Off`` is a word, no boolean, and ``1:4`` is text, not 64 minutes.
"""

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import pydantic.fields
import yaml

from tandem.core.errors import ConfigError

Model = TypeVar("Model", bound=pydantic.BaseModel)
_MAX_FILE_BYTES = 1 << 20
_Path = tuple[str | int, ...]
_EXPONENT = re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$")


def load_yaml_config(path: Path, model: type[Model]) -> Model:
    """Return ``path`` as a validated ``model``. Raises ConfigError that lists every problem, one a line."""
    return parse_yaml_config(read_yaml_text(path), model, name=str(path))


def read_yaml_text(path: Path) -> str:
    """Return the text of a file that is small enough to be a configuration. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}", remedy="give the path of a YAML file") from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is larger than 1 MiB", remedy="a configuration this long is a mistake")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8", remedy="save the file as UTF-8") from error


def read_yaml_values(text: str, *, name: str) -> Any:
    """Return one document of foreign YAML as plain values, unchecked; ``name`` stands for the file in messages."""
    return _to_values(_compose(text, name), (), {}, name)


def parse_yaml_config(text: str, model: type[Model], *, name: str) -> Model:
    """Return ``text`` as a validated ``model``; ``name`` stands for the file in messages."""
    root = _compose(text, name)
    positions: dict[_Path, tuple[int, int]] = {}
    values = _to_values(root, (), positions, name)
    try:
        return model.model_validate({} if values is None else values)
    except pydantic.ValidationError as error:
        lines = [_describe(problem, positions, model, name) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from error


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.TagToken):
                where = f"{name}:{token.start_mark.line + 1}:{token.start_mark.column + 1}"
                raise ConfigError(f"{where}: aliases and tags are not allowed", remedy="write the value out")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from error


def _to_values(node: yaml.Node | None, path: _Path, positions: dict[_Path, tuple[int, int]], name: str) -> Any:
    if node is None:
        return None
    positions.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, positions, name)
    if isinstance(node, yaml.SequenceNode):
        return [_to_values(child, (*path, index), positions, name) for index, child in enumerate(node.value)]
    if _is_a_word_in_yaml_1_2(node):
        return node.value
    if node.tag == "tag:yaml.org,2002:str" and getattr(node, "style", None) is None and _EXPONENT.match(node.value):
        return float(node.value)  # 1e-6 is a number in YAML 1.2; 1.1 wants 1.0e-6
    # The safe constructor turns one scalar into str, int, float, bool, None or a date.
    return yaml.constructor.SafeConstructor().construct_object(node)


def _is_a_word_in_yaml_1_2(node: yaml.Node) -> bool:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "bool":
        return str(node.value).lower() not in {"true", "false"}
    return kind in {"int", "float"} and ":" in node.value


def _mapping(node: yaml.MappingNode, path: _Path, positions: dict[_Path, tuple[int, int]], name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{name}:{line}:{column}: a key must be a plain word")
        key = str(key_node.value)
        if key in values:
            raise ConfigError(f"{name}:{line}:{column}: {_dotted((*path, key))}: is given twice", remedy="keep one")
        positions[(*path, key)] = (line, column)
        values[key] = _to_values(value_node, (*path, key), positions, name)
    return values


def _describe(problem: Any, positions: dict[_Path, tuple[int, int]], model: type[pydantic.BaseModel], name: str) -> str:
    path: _Path = tuple(problem["loc"])
    known = path
    while known and known not in positions:  # unions and missing keys add steps that the file does not have
        known = known[:-1]
    line, column = positions.get(known, (1, 1))
    where = f"{name}:{line}:{column}: {_dotted(path) or '(file)'}"
    if problem["type"] == "extra_forbidden":
        names = _field_names(model, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(names))}"
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: is missing{_purpose(model, path, 'add it')}"
    value = problem.get("input")
    if problem["type"] in {"model_type", "dict_type"}:
        found = "a list" if isinstance(value, list) else "nothing" if value is None else repr(value)
        return f"{where}: takes keys with values (`key: value`), and is {found}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | None) else ""
    return f"{where}: {message[:1].lower()}{message[1:]}{shown}{_nearest_choice(problem)}" + (
        _purpose(model, path, "it means") if problem["type"] == "string_pattern_mismatch" else ""
    )


def _nearest_choice(problem: Any) -> str:
    if problem["type"] not in {"literal_error", "enum"} or not isinstance(problem["input"], str):
        return ""
    choices = re.findall(r"'([^']*)'", str(problem["ctx"]["expected"]))
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(problem["input"].lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def _purpose(model: type[pydantic.BaseModel], path: _Path, lead: str) -> str:
    """Return what the key at ``path`` is for, as the model says."""
    info = _fields(model, path[:-1]).get(str(path[-1])) if path else None
    return f"; {lead}: {info.description}" if info is not None and info.description else ""


def _dotted(path: _Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _field_names(model: type[pydantic.BaseModel], path: _Path) -> list[str]:
    """Return the keys allowed at ``path``."""
    return list(_fields(model, path))


def _fields(model: type[pydantic.BaseModel], path: _Path) -> dict[str, pydantic.fields.FieldInfo]:
    """Return the fields at ``path`` by key, following them through optional and list annotations."""
    current: Any = model
    for step in path:
        if isinstance(step, int):
            continue
        if not _is_model(current):
            return {}
        info = current.model_fields.get(step) or next(
            (f for f in current.model_fields.values() if f.alias == step), None
        )
        if info is not None:  # else: the key of a dict whose values are the model in hand
            current = _innermost_model(info.annotation)
    if not _is_model(current):
        return {}
    return {info.alias or field: info for field, info in current.model_fields.items()}


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _innermost_model(annotation: Any) -> Any:
    if _is_model(annotation):
        return annotation
    if typing.get_origin(annotation) in (list, tuple, dict, typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            found = _innermost_model(argument)
            if found is not None:
                return found
    return None
