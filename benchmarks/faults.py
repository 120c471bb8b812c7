"""A campaign of faults: what trains is killed at drawn moments, and every run has to end the same.

    python benchmarks/faults.py --output faults --kills 200          goes on where it stopped
    python benchmarks/faults.py --output faults --kills 40 --minutes 30
    python benchmarks/faults.py --output faults --plain 10           Ray Train without rtk, for comparison
    python benchmarks/faults.py --output faults --damage 1000 --crashes 500      checkpoints alone, in minutes
    python benchmarks/faults.py --output faults --inputs 10000 --exploits      malformed and hostile inputs
    python benchmarks/faults.py --output faults                      the summary alone

A run of each setting (ZeRO stage and methods) that nothing disturbs is the reference. The others are started
by `rtk train --keep-alive` and lose a worker, Ray's daemon or the driver a few times each: at any moment,
while a checkpoint is being written, or while they start. In the end every file of the last and the best
checkpoint (weights, optimiser, EMA, F-SAM's average, BatchNorm) has to be the reference's, bit by bit, and
every validation metric and learning rate of an epoch's end has to be there once, with its value. Only
processes below those that are started here are killed. A JSON line of each kill goes to `OUTPUT/kills.jsonl`,
of each run to `runs.jsonl`; what is drawn depends on the number of the run alone. The last line is the median
time from a kill to the next step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults_crashes import crash
from faults_damage import damage_checkpoints
from faults_fuzz import exploit, fuzz
from faults_fuzz import summary as fuzz_summary
from faults_kills import SETTINGS, VICTIMS, disturbed_run, reference_run
from faults_plain import plain_kills


def rows_of(file: Path) -> list[dict[str, Any]]:
    """JSON lines of a file; none where it is not there."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def append(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add JSON lines to a file, and print them."""
    with file.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines anew."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def campaign(options: argparse.Namespace) -> None:
    """Disturb runs until there are so many kills, or time is up."""
    started, folder = time.monotonic(), options.output
    kills, runs = folder / "kills.jsonl", folder / "runs.jsonl"
    while len(rows_of(kills)) < options.kills:
        if options.minutes is not None and time.monotonic() - started > 60 * options.minutes:
            return
        number = len(rows_of(runs))
        setting = list(SETTINGS)[number % len(SETTINGS)]
        wanted = reference_run(folder, setting)
        killed, outcome = disturbed_run(folder, setting, number, options.seed, wanted)
        append(kills, killed)
        append(runs, [outcome])


def malformed(options: argparse.Namespace) -> None:
    """Give what inputs and exploits are missing, a row each."""
    inputs, exploits = options.output / "inputs.jsonl", options.output / "exploits.jsonl"
    if options.exploits:
        for row in exploit(options.output, options.seed, rows_of(exploits)):
            append(exploits, [row])
    if options.inputs:
        for row in fuzz(options.output, options.inputs, options.seed, rows_of(inputs)):
            append(inputs, [row])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least such a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(folder: Path) -> list[str]:
    """What came of it, in lines."""
    kills, runs = rows_of(folder / "kills.jsonl"), rows_of(folder / "runs.jsonl")
    plain = rows_of(folder / "plain.jsonl")
    same = [run for run in runs if run["code"] == 0 and not run["differing"] and not run["rows"]]
    lines = [f"{len(kills)} kills in {len(runs)} runs; {len(same)} runs finished bit-equal, each row once"]
    lines += [f"not so: {json.dumps(run)}" for run in runs if run not in same]
    for row in rows_of(folder / "crashes.jsonl"):
        lines.append(
            f"{row['crashes']} crashes of a process that saves, {row['saving']} of them in a save: "
            f"{row['whole']} left the old or the new checkpoint, whole; {row['mended']} needed an earlier one"
        )
    for row in rows_of(folder / "damage.jsonl"):
        found = f"{row['found']} of {row['count']} found"
        lines.append(f"{row['kind']}: {found}, {row['gone_on']} gone on from a whole one")
    lines += fuzz_summary(rows_of(folder / "inputs.jsonl"), "inputs")
    lines += fuzz_summary(rows_of(folder / "exploits.jsonl"), "tried")
    groups = {victim: [k for k in kills if k["victim"] == victim] for victim in VICTIMS}
    groups["while a checkpoint was written"] = [k for k in kills if k["saving"]]
    groups["a worker of plain Ray Train"] = plain
    for name, group in groups.items():
        times = [kill["seconds"] for kill in group if kill["seconds"] is not None]
        if times:
            middle, late = statistics.median(times), percentile(times, 0.95)
            lines.append(
                f"{name}: {len(group)} kills, to the next step {middle:.1f} s (95 %: {late:.1f} s, "
                f"at most {max(times):.1f} s)"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, sum up what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kills", type=int, default=0, help="kills in all, those that are there included")
    parser.add_argument("--plain", type=int, default=0, help="kills of a worker of plain Ray Train, in all")
    parser.add_argument("--damage", type=int, default=0, help="damaged copies of a run's checkpoints")
    parser.add_argument("--crashes", type=int, default=0, help="kills of a process that saves all the time")
    parser.add_argument("--inputs", type=int, default=0, help="malformed inputs of eight kinds, in all")
    parser.add_argument(
        "--exploits", action="store_true", help="known exploits, those that were not tried yet"
    )
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output = options.output.absolute()
    options.output.mkdir(parents=True, exist_ok=True)
    campaign(options)
    missing = options.plain - len(rows_of(options.output / "plain.jsonl"))
    if missing > 0:
        append(options.output / "plain.jsonl", plain_kills(options.output, missing))
    if options.damage:
        run = reference_run(options.output, next(iter(SETTINGS))).path
        write(options.output / "damage.jsonl", damage_checkpoints(run, options.damage, options.seed))
    if options.crashes:
        write(options.output / "crashes.jsonl", crash(options.crashes, options.seed))
    malformed(options)
    print("\n".join(summary(options.output)))
    times = [k["seconds"] for k in rows_of(options.output / "kills.jsonl") if k["seconds"] is not None]
    if times:
        print(f"seconds {statistics.median(times):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
