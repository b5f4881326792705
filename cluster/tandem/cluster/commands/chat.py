"""`tandem chat`: a conversation, line by line, from a person or from a pipe."""

import asyncio
import sys

from tandem.client import AsyncClient, GenerateOptions, Message
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.core.environment import read_environment
from tandem.core.errors import RequestError, TandemError

_HELP = "type a message; /new forgets the conversation, /exit or Ctrl-D ends"


class Conversation:
    """What was said so far."""

    def __init__(self, system: str | None) -> None:
        self._start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[Message] = []

    def with_question(self, text: str) -> list[Message]:
        """Return the messages to send; the question is kept only once it is answered."""
        return [*self._start, *self._turns, {"role": "user", "content": text}]

    def keep(self, question: str, answer: str) -> None:
        """Remember one exchange."""
        self._turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        """Begin anew."""
        self._turns.clear()

    @property
    def num_turns(self) -> int:
        """How many messages are remembered."""
        return len(self._turns)


def run_chat(connection: Connection, options: GenerateOptions, *, system: str | None, timeout_s: float) -> None:
    """Talk until the input ends. Raises TandemError when the server can't be reached at all."""
    environment = read_environment()
    terminal = open_terminal(environment)
    # One loop for all turns: connections belong to it.  Lines are read between turns, while it stands still.
    with asyncio.Runner() as runner:
        client = connection.public_client(environment, timeout_s=timeout_s)
        try:
            runner.run(client.models())  # an unreachable server is told before anybody types
            _talk(runner, client, options, Conversation(system), terminal)
        finally:
            runner.run(client.close())


def _talk(
    runner: asyncio.Runner, client: AsyncClient, options: GenerateOptions, talk: Conversation, terminal: Terminal
) -> None:
    interactive = sys.stdin.isatty()
    if interactive:
        terminal.note(_HELP)
    while True:
        question = _read_line(interactive)
        if question is None or question in ("/exit", "/quit"):
            return
        if question == "/new":
            talk.forget()
        elif question:
            try:
                if not interactive and talk.num_turns:
                    terminal.say()  # an answer may have many lines: an empty one stands between two
                answer = runner.run(_answer(client, talk.with_question(question), options, terminal))
            except RequestError as error:  # this question can't be served; the next may
                if not interactive:
                    raise
                terminal.note(f"error: {error}")
            else:
                talk.keep(question, answer)


def _read_line(interactive: bool) -> str | None:
    try:
        if interactive:
            return input("> ").strip()
        line = sys.stdin.readline()
    except (EOFError, UnicodeDecodeError):
        return None
    return line.strip() if line else None


async def _answer(client: AsyncClient, messages: list[Message], options: GenerateOptions, terminal: Terminal) -> str:
    pieces: list[str] = []
    try:
        async with client.stream(messages=messages, **options) as stream:
            async for text in stream.texts():
                pieces.append(text)
                terminal.stream(text)
    except TandemError:
        if pieces:
            terminal.say()
        raise
    terminal.say()
    return "".join(pieces)
