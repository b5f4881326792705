"""The command line of the simulation: campaigns, replays, mutants."""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from tandem.chaos.simulation.campaign import Sum, describe, is_calm, run_campaign
from tandem.chaos.simulation.faults import ALL_KINDS
from tandem.chaos.simulation.hunt import hunt
from tandem.chaos.simulation.mutants import MUTANTS
from tandem.chaos.simulation.plan import Timeline
from tandem.chaos.simulation.run import run_seed

_AROUND = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every oracle held (or, with ``--mutants``, every mutant was found)."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    timeline = Timeline(end_s=options.seconds)
    if options.replay is not None:
        return _replay(options.replay, timeline, show_all=options.all)
    if options.mutants is not None:
        return _mutants(options.mutants, timeline)
    total = run_campaign(options.seeds, timeline=timeline, jobs=options.jobs, tell=_say)
    if not options.json:
        _show(total)
    _print(json.dumps({**total.facts(), "failed_seeds": [result.seed for result in total.failed]}))
    return 1 if total.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tandem.chaos.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(250), metavar="FROM:TO", help="default 0:250")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds of each seed (default 60)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object on stdout")
    parser.add_argument("--replay", type=int, metavar="SEED", help="show what happens in one seed")
    parser.add_argument("--all", action="store_true", help="with --replay: from the beginning")
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument("--mutants", nargs="*", choices=names, help="take guards out and see them missed")
    return parser


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end)) if end else range(int(first))


def _replay(seed: int, timeline: Timeline, *, show_all: bool) -> int:
    result = run_seed(seed, timeline=timeline, is_calm=is_calm(seed), is_replay=True)
    notes = result.last_notes
    first = next((i for i, note in enumerate(notes) if " ORACLE " in note), len(notes))
    for note in notes if show_all else notes[max(0, first - _AROUND) : first + 5]:
        _print(note)
    _print(f"seed {seed}: {len(result.violations)} violations, trace {result.digest}")
    return 1 if result.violations else 0


def _mutants(names: Sequence[str], timeline: Timeline) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    missed = 0
    for mutant in chosen:
        found = hunt(mutant, timeline=timeline)
        missed += found.seed is None or found.control_failed is not None
        _print(f"{mutant.name:<22} {mutant.rule:<10} {found.describe()}")
    _print(f"{len(chosen) - missed} of {len(chosen)} mutants found")
    return 1 if missed else 0


def _show(total: Sum) -> None:
    for kind in ALL_KINDS:
        _print(f"  {kind:<20} {total.hits[kind]:>8}{'' if total.hits[kind] else '   NEVER'}")
    for outcome, count in total.outcomes.most_common():
        _print(f"  {outcome:<40} {count:>8}")
    for result in total.failed:
        _print(describe(result).partition("\n  last events")[0])


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
