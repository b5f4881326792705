"""The controller as a subprocess of ours. Never loads torch."""

import asyncio
import math
import sys

from tandem.cluster.control.program import run_controller
from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line, report, stop_event_on_lifeline
from tandem.cluster.programs.config import ControllerProgramConfig
from tandem.controller.deciding.decide import describe
from tandem.controller.live.controller import Round
from tandem.core.errors import TandemError
from tandem.core.log import configure_logging


async def serve(config: ControllerProgramConfig) -> None:
    """Control until the lifeline ends. A worker that is being drained then is called back by the next life."""
    stop = stop_event_on_lifeline(asyncio.get_running_loop())
    await run_controller(config, stop, on_ready=lambda: report("ready"), on_round=_tell)


def _tell(one: Round) -> None:
    """Tell the parent what was decided."""
    record = one.record
    report(
        "round",
        term=one.term,
        verdict=record.verdict.value,
        reason=record.reason,
        current=str(record.current),
        wished=None if record.wished is None else str(record.wished),
        move=None if record.move is None else describe(record.move),
        is_repair=record.is_repair,
        borrow_share=record.borrow_share,
        clamps=list(record.clamps),
        time_s=record.time_s,
        numbers={name: round(number, 3) for name, number in record.numbers.items() if math.isfinite(number)},
    )


def main() -> None:
    """Run the program; a problem a person can solve is reported to the parent in one line."""
    config = ControllerProgramConfig.model_validate_json(read_config_line())
    configure_logging(level=config.log_level, style=config.log_style, worker=config.controller_id)
    try:
        asyncio.run(serve(config))
    except TandemError as error:
        report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
