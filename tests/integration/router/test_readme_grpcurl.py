"""The README's ``grpcurl`` line does what it says, asked as grpcurl asks: by reflection alone, without our stubs."""

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tandem.core.types import Role
from tests.fakes.fake_worker import FakeWorker
from tests.fakes.router_cluster import cluster
from tests.meta.source_files import ROOT

ADDRESS = "127.0.0.1:8700"


def words() -> list[str]:
    """The words of the line, its continuation joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^grpcurl .*$", text, re.MULTILINE)
    return shlex.split(line)


def ask(address: str, method: str, data: str) -> list[dict[str, Any]]:
    """Find the method by reflection, send ``data`` (JSON) and return the answers as JSON objects."""
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service, _, name = method.partition("/")
        found = pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.Parse(data, message_factory.GetMessageClass(found.input_type)())
        call = channel.unary_stream(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
        )
        return [json_format.MessageToDict(answer) for answer in call(request, timeout=10.0)]


async def test_the_line_streams_an_answer(tmp_path: Path) -> None:
    command, *options, address, method = words()
    assert command == "grpcurl"
    assert options[:2] == ["-plaintext", "-d"]
    assert address == ADDRESS
    async with cluster(tmp_path, [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]) as found:
        answers = await asyncio.to_thread(ask, found.router.address, method, options[2])
    assert any("completed" in answer for answer in answers)
    assert len(answers) > 1
