"""One line of an event log: its envelope, its JSON form, its file name. Zero I/O."""

import re
from dataclasses import dataclass

import msgspec

from tandem.core.event_log.events import Event

LOG_VERSION = 1
_SUFFIX = ".jsonl"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, order=True)
class ProcessLife:
    """One life of one process; a restarted one has the same name and another epoch."""

    name: str
    epoch: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """One line. ``t`` is in seconds of the process's monotonic clock; the order of lines is the order of events."""

    t: float
    process: str
    epoch: int
    event: Event


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Record)


class LineEncoder:
    """Encodes one process's events; what is the same in all its lines is encoded once."""

    def __init__(self, life: ProcessLife) -> None:
        name = _ENCODER.encode(life.name)
        self._head = b'{"process":' + name + b',"epoch":%d,"t":' % life.epoch

    def append(self, buffer: bytearray, at_s: float, event: Event) -> None:
        """Add the event's line to ``buffer``."""
        buffer += self._head
        buffer += b'%.6f,"event":' % at_s
        buffer += _ENCODER.encode(event)
        buffer += b"}\n"


def decode_line(line: bytes) -> Record:
    """Return the record of a line. Raises msgspec.MsgspecError for anything else."""
    return _DECODER.decode(line)


def file_name(life: ProcessLife) -> str:
    """Return the name of the life's file inside the log folder."""
    return f"{_NOT_IN_NAMES.sub('_', life.name)}-{life.epoch}{_SUFFIX}"
