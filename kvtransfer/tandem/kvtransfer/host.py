"""Do two processes share this machine's memory and its abstract sockets?"""

import os
from pathlib import Path


def host_id() -> str:
    """Name what two processes must share for ``shm``: the kernel's boot, the network namespace, the user.

    Abstract sockets live in a network namespace and the listener admits its own user only, so equal ids mean that a
    connection will be accepted; a container of its own gets another id and falls back to TCP.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/net")
    if not boot.exists() or not namespace.exists():
        return ""
    return f"{boot.read_text().strip()}:{os.stat(namespace).st_ino}:{os.getuid()}"
