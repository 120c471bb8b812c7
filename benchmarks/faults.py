"""A campaign of faults: what trains is killed at drawn moments, and every run has to end the same.

    python benchmarks/faults.py --output faults --kills 200          goes on where it stopped
    python benchmarks/faults.py --output faults --kills 40 --minutes 30
    python benchmarks/faults.py --output faults --kills 20 --where storage       or resize, or nodes
    python benchmarks/faults.py --output faults --plain 10           Ray Train without rtk, for comparison
    python benchmarks/faults.py --output faults --damage 1000 --crashes 500      checkpoints alone, in minutes
    python benchmarks/faults.py --output faults --inputs 10000 --exploits      malformed and hostile inputs
    python benchmarks/faults.py --output faults                      the summary alone

A run of each setting (ZeRO stage and methods) that nothing disturbs is the reference. The others are started
by `rtk train --keep-alive` and lose a worker, Ray's daemon or the driver a few times each: at any moment,
while a checkpoint is being written, or while they start; on object storage (`--where storage`) their machine
too, with all that was on it; on three nodes without a common folder (`nodes`), whole nodes. In the end every
file of the last and the best checkpoint (weights, optimiser, EMA, F-SAM's average, BatchNorm) has to be the
reference's, bit by bit, and every validation metric and learning rate of an epoch's end has to be there once,
with its value. Runs killed while the number of their workers changes (`resize`) are compared to 1e-5. Nodes
take root. Only processes below those that are started here are killed. A JSON line of each kill goes to
`OUTPUT/kills.jsonl`, of each run to `runs.jsonl`; what is drawn depends on the number of the run alone. The
last line is the median time from a kill to the next step.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults_crashes import crash
from faults_damage import damage_checkpoints
from faults_fuzz import exploit, fuzz
from faults_fuzz import summary as fuzz_summary
from faults_kills import on_disk, on_storage
from faults_nodes import on_nodes
from faults_plain import plain_kills
from faults_resize import resizing
from faults_runs import SETTINGS, Row, reference_run

DISK = "disk"
KINDS = {DISK: on_disk, "storage": on_storage, "resize": resizing, "nodes": on_nodes}


def rows_of(file: Path) -> list[Row]:
    """JSON lines of a file; none where it is not there."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def append(file: Path, rows: Sequence[Row]) -> None:
    """Add JSON lines to a file, and print them."""
    with file.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write JSON lines anew."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def campaign(options: argparse.Namespace) -> None:
    """Disturb runs of a kind until there are so many kills, or time is up."""
    started, files = time.monotonic(), (options.output / "kills.jsonl", options.output / "runs.jsonl")
    if options.kills <= len(of_kind(rows_of(files[0]), options.where)):
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    with KINDS[options.where](options.output, options.seed) as disturb:
        while len(of_kind(rows_of(files[0]), options.where)) < options.kills:
            if options.minutes is not None and time.monotonic() - started > 60 * options.minutes:
                return
            kills, outcome = disturb(len(of_kind(rows_of(files[1]), options.where)))
            append(files[0], [{"where": options.where, **kill} for kill in kills])
            append(files[1], [{"where": options.where, **outcome}])


def of_kind(rows: Sequence[Row], where: str) -> list[Row]:
    """Those rows that are of runs of a kind."""
    return [row for row in rows if row.get("where", DISK) == where]


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
    lines = []
    for kind in KINDS:
        lines += summary_of(of_kind(kills, kind), of_kind(runs, kind), kind)
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
    return lines + times_of("a worker of plain Ray Train", rows_of(folder / "plain.jsonl"))


def summary_of(kills: Sequence[Row], runs: Sequence[Row], kind: str) -> list[str]:
    """What came of the runs of a kind, and how long they took to go on; nothing where there are none."""
    if not runs:
        return []
    same = [run for run in runs if run["code"] == 0 and not run["differing"] and not run["rows"]]
    apart = [run["difference"] for run in runs if "difference" in run]
    how = f"to {max(apart):.1g} as the undisturbed one" if apart else "bit-equal"
    lines = [f"{kind}: {len(kills)} kills in {len(runs)} runs; {len(same)} finished {how}, each row once"]
    lines += [f"not so: {json.dumps(run)}" for run in runs if run not in same]
    for victim in dict.fromkeys(kill["victim"] for kill in kills):
        lines += times_of(f"{kind}: {victim}", [kill for kill in kills if kill["victim"] == victim])
    saving = [kill for kill in kills if kill["saving"]]
    return lines + times_of(f"{kind}: while a checkpoint was written", saving)


def times_of(name: str, kills: Sequence[Row]) -> list[str]:
    """How long it took from kills of a kind to the next step."""
    times = [kill["seconds"] for kill in kills if kill["seconds"] is not None]
    if not times:
        return []
    middle, late = statistics.median(times), percentile(times, 0.95)
    spread = f"(95 %: {late:.1f} s, at most {max(times):.1f} s)"
    return [f"{name}: {len(kills)} kills, to the next step {middle:.1f} s {spread}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, sum up what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kills", type=int, default=0, help="kills in all, those that are there included")
    parser.add_argument("--where", choices=KINDS, default=DISK, help="which runs they are of (default: disk)")
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
