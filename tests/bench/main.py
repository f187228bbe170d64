"""Measure Nacre: `make bench ONLY=prefix`.

Ratios come from one run with both sides alternating, because machines are shared and noisy. Every result says how
it was measured. Prints a table and writes a list of `{name, value, unit, better, reference, samples, how}`.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from bench import (
    api,
    disks,
    fleet,
    footprint,
    ha,
    machines,
    migrate,
    network,
    placement,
    scheduler,
    snapshots,
    templates,
)
from bench.results import Result

Bench = Callable[[], Iterator[Result]]


def benches() -> dict[tuple[str, ...], Bench]:
    """Every bench with the names that it reports."""

    every = (
        machines,
        templates,
        disks,
        snapshots,
        network,
        migrate,
        api,
        footprint,
        fleet,
        ha,
        scheduler,
        placement,
    )
    return {names: bench for module in every for names, bench in module.BENCHES.items()}


def main() -> None:
    """Run the benches that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="run only benches that report a name with this prefix")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    results: list[Result] = []
    for names, bench in benches().items():
        if not any(name.startswith(arguments.only) for name in names):
            continue
        for result in bench():
            if result.name.startswith(arguments.only):
                results.append(result)
                print(row(result), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def row(result: Result) -> str:
    """One line of the table."""
    figure = f"{result.value:10.3f} {result.unit}"
    return f"{result.name:34} {figure:20} {result.better:6} is better  {result.reference:44} n={len(result.samples)}"


if __name__ == "__main__":
    main()
