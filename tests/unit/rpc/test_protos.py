"""The .proto files keep their rules, and the committed stubs are made from them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.internal import api_implementation

ROOT = Path(__file__).parents[3]
PROTO = ROOT / "proto"
FILES = sorted(PROTO.rglob("*.proto"))
FIELD = descriptor_pb2.FieldDescriptorProto


def _describe(folder: Path, *, root: Path = PROTO, files: list[Path] | None = None) -> descriptor_pb2.FileDescriptorSet:
    out = folder / "all.binpb"
    names = [str(path) for path in files or FILES]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), f"--descriptor_set_out={out}"]
    subprocess.run([*command, "--include_source_info", *names], check=True, timeout=60)
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    return _describe(tmp_path_factory.mktemp("proto"))


def _messages(file: descriptor_pb2.FileDescriptorProto) -> Iterator[descriptor_pb2.DescriptorProto]:
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending += message.nested_type
        if not message.options.map_entry:
            yield message


def lint(described: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """Return what is wrong, one line each."""
    problems: list[str] = []
    for file in described.file:
        problems += _lint_file(file)
        for message in _messages(file):
            problems += _lint_message(message)
        for enum in file.enum_type:
            problems += _lint_enum(enum)
        for service in file.service:
            problems += _lint_service(service)
    return problems + _recursive(described)


def _lint_file(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    problems = (
        [f"{file.name}: package {file.package}"]
        if file.package != file.name.rsplit("/", 1)[0].replace("/", ".")
        else []
    )
    commented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
    for path in _definition_paths(file):
        if path not in commented:
            problems.append(f"{file.name}: no comment at {path}")
    return problems


def _definition_paths(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[int, ...]]:
    """Source paths of all messages, fields, oneofs, enums, values, services and methods."""
    for i, message in enumerate(file.message_type):
        yield (4, i)
        yield from ((4, i, 2, j) for j in range(len(message.field)))
        real = {
            field.oneof_index for field in message.field if field.HasField("oneof_index") and not field.proto3_optional
        }
        yield from ((4, i, 8, j) for j in real)
    for i, enum in enumerate(file.enum_type):
        yield (5, i)
        yield from ((5, i, 2, j) for j in range(len(enum.value)))
    for i, service in enumerate(file.service):
        yield (6, i)
        yield from ((6, i, 2, j) for j in range(len(service.method)))


def _lint_message(message: descriptor_pb2.DescriptorProto) -> list[str]:
    problems = []
    if not re.fullmatch(r"([A-Z][a-z0-9]*)+", message.name):
        problems.append(f"{message.name}: not CamelCase")
    numbers = [field.number for field in message.field]
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"{message.name}: field numbers {numbers}")
    for field in message.field:
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name):
            problems.append(f"{message.name}.{field.name}: not snake_case")
        if field.type_name == ".google.protobuf.Any":
            problems.append(f"{message.name}.{field.name}: Any")
        if field.type == FIELD.TYPE_FLOAT:
            problems.append(f"{message.name}.{field.name}: float loses digits; use double")
        if field.type in (FIELD.TYPE_DOUBLE,) and field.name.endswith(("time", "timeout", "latency", "duration")):
            problems.append(f"{message.name}.{field.name}: a time without a unit in its name")
    return problems


def _lint_enum(enum: descriptor_pb2.EnumDescriptorProto) -> list[str]:
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
    problems = [f"{enum.name}: {value.name}" for value in enum.value if not value.name.startswith(f"{prefix}_")]
    if (enum.value[0].name, enum.value[0].number) != (f"{prefix}_UNSPECIFIED", 0):
        problems.append(f"{enum.name}: no UNSPECIFIED = 0")
    return problems


def _lint_service(service: descriptor_pb2.ServiceDescriptorProto) -> list[str]:
    problems = [] if service.name.endswith("Service") else [f"{service.name}: not …Service"]
    for method in service.method:
        asked = method.input_type.rsplit(".", 1)[1]
        answered = method.output_type.rsplit(".", 1)[1]
        if answered != f"{method.name}Response":
            problems.append(f"{service.name}.{method.name}: answers {answered}")
        if asked != f"{method.name}Request" and method.name != "StreamGenerate":
            problems.append(f"{service.name}.{method.name}: asks {asked}")
    return problems


def _recursive(described: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """A message that can hold itself can be nested until a parser gives up."""
    below: dict[str, set[str]] = {}
    for file in described.file:
        for message in [*file.message_type]:
            name = f".{file.package}.{message.name}"
            nested = {f"{name}.{entry.name}": entry for entry in message.nested_type}
            fields = [*message.field, *(field for entry in nested.values() for field in entry.field)]
            below[name] = {field.type_name for field in fields if field.type == FIELD.TYPE_MESSAGE} - set(nested)

    def reaches(start: str, name: str, seen: set[str]) -> bool:
        following = below.get(name, set()) - seen
        return start in below.get(name, set()) or any(reaches(start, step, seen | following) for step in following)

    return [f"{name}: recursive" for name in below if reaches(name, name, set())]


def test_the_protos_keep_the_rules(described: descriptor_pb2.FileDescriptorSet) -> None:
    assert len(described.file) == len(FILES) == 9
    assert lint(described) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("message bad_name { }", "not CamelCase"),
        ("message M { string camelCase = 1; }", "not snake_case"),
        ("message M { string x = 2; }", "field numbers"),
        ("message M { string x = 1; }", "no comment"),
        ("message M { float x = 1; }", "use double"),
        ("message M { double wait_time = 1; }", "without a unit"),
        ("message M { M m = 1; }", "recursive"),
        ("message M { N n = 1; } message N { map<string, M> m = 1; }", "recursive"),
        ('import "google/protobuf/any.proto"; message M { google.protobuf.Any x = 1; }', "Any"),
        ("enum Kind { KIND_A = 0; }", "UNSPECIFIED"),
        ("enum Kind { KIND_UNSPECIFIED = 0; A = 1; }", "Kind: A"),
        ("message M { } service Things { }", "Service"),
        ("message M { } service AService { rpc Do(M) returns (M); }", "answers M"),
    ],
)
def test_the_lint_sees_each_kind_of_mistake(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "bad" / "v1" / "bad.proto"
    file.parent.mkdir(parents=True)
    file.write_text(f'syntax = "proto3"; package bad.v1; {text}')
    assert any(problem in found for found in lint(_describe(tmp_path, root=tmp_path, files=[file])))


def test_the_committed_stubs_are_fresh(tmp_path: Path) -> None:
    """Equal bytes after `make proto`; the generator is pinned, so a difference means that somebody forgot to run it."""
    names = [str(path.relative_to(PROTO)) for path in FILES]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO), *outputs, *names]
    subprocess.run(command, check=True, cwd=PROTO, timeout=60)
    fresh = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.py*")}
    committed_root = ROOT / "rpc"
    committed = {
        str(path.relative_to(committed_root)): path.read_bytes()
        for path in committed_root.rglob("*_pb2*.py*")
        if path.suffix in (".py", ".pyi")
    }
    assert sorted(fresh) == sorted(committed)
    assert [name for name in fresh if fresh[name] != committed[name]] == []


def test_protobuf_is_the_c_implementation() -> None:
    """The pure Python one can be sent into recursion by a message, and is fifty times slower."""
    assert api_implementation.Type() == "upb"


def test_the_portions_are_packages_and_tandem_is_none() -> None:
    for portion in ("inference", "worker", "admin"):
        folder = ROOT / "rpc" / "tandem" / portion
        assert (folder / "__init__.py").is_file()
        assert (folder / "v1" / "__init__.py").is_file()
        assert (folder / "py.typed").is_file()
    assert not (ROOT / "rpc" / "tandem" / "__init__.py").exists()
