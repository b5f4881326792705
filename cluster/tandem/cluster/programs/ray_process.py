"""Ray's driver as a subprocess of ours: starts or joins Ray, places the workers as actors, watches them, ends them.

It is a process of its own because Ray takes signals, environment and standard streams over, and because a Ray that is
started here must end with the process that started it, which the kernel sees to.
"""

import shutil
import sys
import threading

from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line, report, watch_lifeline
from tandem.cluster.programs.config import RayProgramConfig
from tandem.cluster.runtime.ray_driver import RayDriver, Stopped
from tandem.core.errors import TandemError
from tandem.core.log import configure_logging

_AFTER_GRACE_S = 30.0


def serve(config: RayProgramConfig) -> None:
    """Start everything, report ``ready``, watch until the lifeline ends, then drain."""
    ended = threading.Event()
    driver = RayDriver(config, ended)
    watch_lifeline(ended.set, last_resort_s=config.stop_timeout_s + _AFTER_GRACE_S, on_line=driver.order)
    try:
        driver.start()
        report("ready")
        driver.watch()
    except Stopped:
        pass
    finally:
        driver.stop()
        shutil.rmtree(config.temp_folder, ignore_errors=True)  # the parent may be gone


def main() -> None:
    """Run the program."""
    config = RayProgramConfig.model_validate_json(read_config_line())
    configure_logging(level=config.log_level, style=config.log_style, worker="ray")
    try:
        serve(config)
    except TandemError as error:
        report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
