"""`tandem generate`: one request to a running cluster."""

import asyncio
import json
import sys
from dataclasses import dataclass

from tandem.client import AsyncClient, GenerateOptions, Generation, Message
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.report import generation_json
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.core.environment import read_environment
from tandem.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to ask, and how to show the answer."""

    prompt: str
    as_chat: bool
    stream: bool
    as_json: bool
    timeout_s: float


def run_generate(connection: Connection, wanted: Wanted, options: GenerateOptions) -> None:
    """Ask and print. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    prompt = read_prompt(wanted.prompt)

    async def ask() -> None:
        async with connection.public_client(environment, timeout_s=wanted.timeout_s) as client:
            if wanted.stream and not wanted.as_json and options.get("n", 1) == 1:
                await _stream(client, prompt, wanted, options, terminal)
            else:
                _print(await _generate(client, prompt, wanted, options), wanted, terminal)

    asyncio.run(ask())


def read_prompt(given: str) -> str:
    """Return the prompt; ``-`` means standard input. Raises InvalidArgument for bytes that are not UTF-8."""
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument("prompt", f"byte {error.start} is not UTF-8", remedy="give UTF-8 text") from error


def _messages(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


async def _generate(client: AsyncClient, prompt: str, wanted: Wanted, options: GenerateOptions) -> Generation:
    if wanted.as_chat:
        return await client.chat(_messages(prompt), **options)
    return await client.generate(prompt, **options)


async def _stream(
    client: AsyncClient, prompt: str, wanted: Wanted, options: GenerateOptions, terminal: Terminal
) -> None:
    asked = client.stream(messages=_messages(prompt), **options) if wanted.as_chat else client.stream(prompt, **options)
    async with asked as stream:
        async for text in stream.texts():
            terminal.stream(text)
    terminal.say()


def _print(generation: Generation, wanted: Wanted, terminal: Terminal) -> None:
    if wanted.as_json:
        terminal.say(json.dumps(generation_json(generation), ensure_ascii=False))
        return
    several = len(generation.sequences) > 1
    for sequence in generation.sequences:
        terminal.say(f"[{sequence.index}] {sequence.text}" if several else sequence.text)
