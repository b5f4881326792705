"""Faults between network namespaces: packets dropped or refused, cables pulled, bandwidth gone. Counters prove them."""

import json
import re
from typing import Any, Final, Literal, Self

from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.namespaces import NetworkHost, run_tool

_TABLE: Final = "tandem_faults"
_SENT = re.compile(r"Sent (\d+) bytes (\d+) pkt \(dropped (\d+), overlimits (\d+)")


class PacketFilter:
    """Rules of nft at one host, for packets from and to ``peer`` (None: everybody). Use as a context manager.

    ``verdict``: `drop` without a word, or `reset` (each TCP packet is answered with RST). ``percent`` of the packets
    are meant, drawn by the kernel. ``direction`` is as the host sees it.
    """

    def __init__(
        self,
        host: NetworkHost,
        *,
        peer: str | None = None,
        verdict: Literal["drop", "reset"] = "drop",
        direction: Literal["in", "out", "both"] = "both",
        percent: int = 100,
    ) -> None:
        self._host = host
        self._name = f"{_TABLE}_{id(self)}"
        self._rule = " ".join(
            [
                "meta l4proto tcp" if verdict == "reset" else "",
                f"numgen random mod 100 < {percent}" if percent < 100 else "",
                "counter",
                "reject with tcp reset" if verdict == "reset" else "drop",
            ]
        )
        self._peer = peer
        self._hooks = {"in": ("input",), "out": ("output",), "both": ("input", "output")}[direction]
        self._num_packets = 0
        self._is_up = False

    def __enter__(self) -> Self:
        self._host.run("nft", "add", "table", "ip", self._name)
        self._is_up = True
        for hook in self._hooks:
            chain = f"add chain ip {self._name} {hook} {{ type filter hook {hook} priority 0; }}"
            self._host.run("nft", chain)
            side, interface = ("saddr", "iifname") if hook == "input" else ("daddr", "oifname")
            match = f'meta {interface} "eth0"' if self._peer is None else f"ip {side} {self._peer}"
            self._host.run("nft", f"add rule ip {self._name} {hook} {match} {self._rule}")
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the rules away; idempotent."""
        if self._is_up:
            self._num_packets = self._count()
            self._is_up = False
            self._host.run("nft", "delete", "table", "ip", self._name)

    def verify(self) -> Evidence:
        """The rules met packets."""
        num_packets = self._count() if self._is_up else self._num_packets
        return Evidence(took_effect=num_packets > 0, facts=f"{num_packets} packets at {self._host.address}")

    def _count(self) -> int:
        listed: dict[str, Any] = json.loads(self._host.run("nft", "-j", "list", "table", "ip", self._name))
        rules = [entry["rule"] for entry in listed["nftables"] if "rule" in entry]
        return sum(part["counter"]["packets"] for rule in rules for part in rule["expr"] if "counter" in part)


class PulledCable:
    """A host's link is down. Use as a context manager."""

    def __init__(self, host: NetworkHost) -> None:
        self._host = host
        self._was_down = False
        self._is_pulled = False

    def __enter__(self) -> Self:
        run_tool("ip", "link", "set", self._host.outer, "down")
        self._is_pulled = True
        [link] = json.loads(self._host.run("ip", "-j", "link", "show", "eth0"))
        self._was_down = link["operstate"] in {"DOWN", "LOWERLAYERDOWN"}
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Plug it in again; idempotent."""
        if self._is_pulled:
            self._is_pulled = False
            run_tool("ip", "link", "set", self._host.outer, "up")

    def verify(self) -> Evidence:
        """The host itself saw its link go down."""
        return Evidence(took_effect=self._was_down, facts=f"eth0 of {self._host.address} was down: {self._was_down}")


class NarrowLink:
    """What a host sends is held to ``bits_per_s`` by a token bucket. Use as a context manager."""

    def __init__(self, host: NetworkHost, *, bits_per_s: int, burst_bytes: int = 16384, latency_ms: int = 2000) -> None:
        self._host = host
        self._shape = ("rate", f"{bits_per_s}bit", "burst", str(burst_bytes), "latency", f"{latency_ms}ms")
        self._num_held = 0
        self._is_up = False

    def __enter__(self) -> Self:
        self._host.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *self._shape)
        self._is_up = True
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the bucket away; idempotent."""
        if self._is_up:
            self._num_held = self._count()
            self._is_up = False
            self._host.run("tc", "qdisc", "delete", "dev", "eth0", "root")

    def verify(self) -> Evidence:
        """Packets had to wait for tokens, or were dropped for want of room."""
        num_held = self._count() if self._is_up else self._num_held
        return Evidence(took_effect=num_held > 0, facts=f"{num_held} packets over the limit at {self._host.address}")

    def _count(self) -> int:
        found = _SENT.search(self._host.run("tc", "-s", "qdisc", "show", "dev", "eth0"))
        return 0 if found is None else int(found.group(3)) + int(found.group(4))
