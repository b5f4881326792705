"""Hosts of our own on one machine: network namespaces, each with one interface on one bridge.

::

      this namespace: bridge 10.F.0.1 ──┬── veth ── [host a] eth0 10.F.0.2
                                        └── veth ── [host b] eth0 10.F.0.3

Needs root, `ip` and `nft`; `unavailable()` says what is missing. Everything is named after this process, and is taken
down at the end whatever happened in between.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from tandem.core.errors import EnvironmentProblem

_CLONE_NEWNET: Final = 0x40000000
_COMMAND_TIMEOUT_S: Final = 10.0
_NAMESPACES: Final = Path("/run/netns")
_numbers = itertools.count()


def unavailable() -> str | None:
    """Say why namespaces can't be made here; None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nft", "tc") if shutil.which(tool) is None]
    return f"{', '.join(missing)} missing (packages iproute2 and nftables)" if missing else None


def run_tool(*arguments: str) -> str:
    """Run a command of a few milliseconds and return what it says; raises EnvironmentProblem with its complaint."""
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    if ended.returncode:
        raise EnvironmentProblem(f"{' '.join(arguments)}: {ended.stderr.strip() or ended.returncode}")
    return ended.stdout


def namespace_of(address: str) -> str:
    """Return the name of the namespace whose host has this address."""
    return "tandem-" + address.replace(".", "-")


def enter_namespace(name: str) -> None:
    """Move this thread, and what it starts from now on, into a namespace. There is no way back."""
    descriptor = os.open(_NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise EnvironmentProblem(f"network namespace {name}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


class NetworkHost:
    """One namespace with one interface, ``eth0``."""

    def __init__(self, *, name: str, address: str, outer: str) -> None:
        self.name = name
        self.address = address
        self.outer = outer  # the other end of its cable, on the bridge

    def run(self, *arguments: str) -> str:
        """Run a command in it."""
        return run_tool("ip", "netns", "exec", self.name, *arguments)


class NetworkLab:
    """A bridge and hosts on it. Use as a context manager."""

    def __init__(self) -> None:
        number = next(_numbers)
        self._stem = f"td{os.getpid() % 10**7}n{number}"
        # Several labs may live at once, of this process and of others.
        self._net = f"10.{100 + os.getpid() % 100}.{number % 200}"
        self._bridge = f"{self._stem}b"
        self.address = f"{self._net}.1"
        self.hosts: list[NetworkHost] = []

    def __enter__(self) -> Self:
        reason = unavailable()
        if reason is not None:
            raise EnvironmentProblem(reason)
        try:
            run_tool("ip", "link", "add", self._bridge, "type", "bridge")
            run_tool("ip", "address", "add", f"{self.address}/24", "dev", self._bridge)
            run_tool("ip", "link", "set", self._bridge, "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_host(self) -> NetworkHost:
        """Plug one more host in."""
        number = len(self.hosts)
        address = f"{self._net}.{2 + number}"
        host = NetworkHost(name=namespace_of(address), address=address, outer=f"{self._stem}v{number}")
        run_tool("ip", "netns", "add", host.name)
        self.hosts.append(host)
        run_tool("ip", "link", "add", host.outer, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        run_tool("ip", "link", "set", host.outer, "master", self._bridge, "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "link", "set", "eth0", "up")
        return host

    def close(self) -> None:
        """Take everything down; what is gone already is no error."""
        for arguments in (
            *(("ip", "link", "delete", host.outer) for host in self.hosts),
            *(("ip", "netns", "delete", host.name) for host in self.hosts),
            ("ip", "link", "delete", self._bridge),
        ):
            subprocess.run(arguments, capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False)
