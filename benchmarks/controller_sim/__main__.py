"""The controller on virtual time: shapes of load with and without it, over several seeds; a minute's load in a second.

    python -m benchmarks.controller_sim --json [--shape NAME] [--seeds N] [--rounds]

What a change of the controller does can be seen here before `benchmarks.controller` shows it on real workers.
"""

import asyncio
import statistics
import sys
from typing import Any

import structlog

from benchmarks.controller_sim.play import Played, play
from benchmarks.controller_sim.shapes import SHAPES
from benchmarks.report import finish, parser, say


def main() -> int:
    """Run and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--shape", action="append", choices=SHAPES, help="only this one; may be repeated")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=1, help="the first of them")
    arguments.add_argument("--rounds", action="store_true", help="tell every round")
    options = arguments.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    found: dict[str, Any] = {}
    for name in options.shape or SHAPES:
        runs = []
        for seed in range(options.seed, options.seed + options.seeds):
            alone = asyncio.run(play(SHAPES[name], seed=seed, controlled=False))
            led = asyncio.run(play(SHAPES[name], seed=seed, controlled=True))
            runs.append((alone, led))
            say(f"{name} {seed}: alone {alone.line()}; controlled {led.line()}; {'; '.join(led.moves)}")
            if options.rounds:
                say("\n".join(led.rounds))
        found[name] = _summary(runs)
    finish(options, found, method="simulation on virtual time; see benchmarks/controller_sim", details={})
    return 0


def _summary(runs: list[tuple[Played, Played]]) -> dict[str, Any]:
    return {
        "alone": round(statistics.fmean(alone.attainment for alone, _ in runs), 3),
        "controlled": round(statistics.fmean(led.attainment for _, led in runs), 3),
        "most_moves": max(len(led.moves) for _, led in runs),
    }


if __name__ == "__main__":
    sys.exit(main())
