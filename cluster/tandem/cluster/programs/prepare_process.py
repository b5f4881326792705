"""Prepares a model in a process of its own, so that the command itself never loads torch.

The configuration line is a `PrepareProgramConfig`; progress goes to the parent; the end is ``ready`` with the folder.
"""

import sys

from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line, report, watch_lifeline
from tandem.cluster.programs.config import PrepareProgramConfig
from tandem.core.errors import TandemError
from tandem.engine.loading.prepare import prepare_model


class _Reporter:
    """Sends progress up, a line per whole percent at most."""

    def __init__(self) -> None:
        self._last = ""

    def report(self, phase: str, fraction: float, elapsed_s: float) -> None:
        detail = f"{phase} {fraction:.0%}" if 0.0 < fraction < 1.0 else phase
        if detail != self._last:
            self._last = detail
            report("status", detail=detail)


def main() -> None:
    """Run the program."""
    config = PrepareProgramConfig.model_validate_json(read_config_line())
    watch_lifeline(lambda: None, last_resort_s=0.0)  # nothing to drain: a half-made folder is thrown away by the next
    try:
        model = prepare_model(
            config.source,
            cache_folder=config.cache_folder,
            dtype=config.dtype,
            name=config.name,
            progress=_Reporter(),
        )
    except TandemError as error:
        report_failure(error)
        sys.exit(1)
    report("ready", folder=str(model.folder))


if __name__ == "__main__":
    main()
