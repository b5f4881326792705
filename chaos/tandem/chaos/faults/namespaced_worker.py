"""A tagged worker on a host of its own: ``python -m tandem.chaos.faults.namespaced_worker``.

It enters the network namespace whose address its configuration line names as ``host``, and is the tagged worker's
process from then on.
"""

import asyncio
import sys

from tandem.chaos.faults.namespaces import enter_namespace, namespace_of
from tandem.chaos.tagged.settings import TaggedWorkerConfig
from tandem.chaos.tagged.worker_process import serve
from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line
from tandem.core.errors import TandemError
from tandem.core.log import configure_logging


def main() -> None:
    """Run the program; a problem a person can solve is reported to the parent in one line."""
    config = TaggedWorkerConfig.model_validate_json(read_config_line())
    configure_logging(level=config.log_level, style=config.log_style, worker=config.worker_id)
    try:
        enter_namespace(namespace_of(config.host))
        asyncio.run(serve(config))
    except TandemError as error:
        report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
