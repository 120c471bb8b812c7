"""Malformed inputs and known exploits given to rtk's commands: no code run, no traceback, 5 s and 1 GiB.

Eight kinds of whole small things (`faults_inputs.py`) are damaged in ways that hypothesis draws, and read by
the command that a user would give. A process of its own (`faults_worker.py`) tries one input after the other;
if it hangs or dies, that is the input's row, and the next process goes on after it. A campaign that is
started again goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECONDS, MIB = 5.0, 1024  # what an input may take
PATIENCE = 60.0  # seconds of a clock after which a process is taken to hang, on a machine that others use too
BEGINNING = 300.0  # of a process that imports and warms up
RTK = [sys.executable, "-m", "rtk.cli"]
SAMPLE = ["digits_demo", "train.workers=1", "train.duration=2ep", "model.width=4"]
LEFT_OUT = ("ray", "evaluation/report.html", "evaluation/table.html", "checkpoints/00001-step-13")
EXPLOITS = "exploits"


def samples_of(folder: Path) -> Path:
    """A run that was trained, evaluated and exported, as small as one can be; made once."""
    samples = folder / "samples"
    if (samples / "cache").exists():
        return samples
    shutil.rmtree(samples, ignore_errors=True)
    for words in (
        ["train", *SAMPLE, "--name", "sample", "--output", str(samples / "runs")],
        ["evaluate", str(samples / "runs" / "sample"), "--risk", "0.1"],
        ["export", str(samples / "runs" / "sample"), "--no-mlflow"],
    ):
        subprocess.run([*RTK, *words], check=True, stdout=subprocess.DEVNULL)
    for name in LEFT_OUT:
        path = samples / "runs" / "sample" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (samples / "cache").mkdir()
    return samples


def kinds() -> list[str]:
    """The kinds of input."""
    from faults_inputs import KINDS

    return list(KINDS)


def fuzz(folder: Path, count: int, seed: int, there: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give so many inputs in all, as many of each kind; rows that are there already are not made again."""
    samples, each = samples_of(folder), -(-count // len(kinds()))
    for kind in kinds():
        done = max((row["number"] + 1 for row in there if row["kind"] == kind), default=0)
        yield from tried(samples, kind, each, seed, done)


def exploit(folder: Path, seed: int, there: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give all known exploits, but those whose rows are there."""
    yield from tried(samples_of(folder), EXPLOITS, 0, seed, len(there))


def tried(samples: Path, kind: str, count: int, seed: int, done: int) -> Iterator[dict[str, Any]]:
    """Rows of the inputs of a kind after the first `done`, by as many processes as are needed."""
    while kind == EXPLOITS or done < count:
        before = done
        for row in of_process(samples, kind, count, seed, done):
            yield {"kind": kind, **row}
            done = row["number"] + 1
        if done == before:  # there are no more
            return


def of_process(samples: Path, kind: str, count: int, seed: int, skip: int) -> Iterator[dict[str, Any]]:
    """Rows of a process until it has ended, or hangs or dies in an input, which is its last row."""
    words = [sys.executable, str(Path(__file__).with_name("faults_worker.py")), str(samples), kind]
    errors = samples / "worker.err"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [*words, str(count), str(seed), str(skip)], stdout=subprocess.PIPE, stderr=stream
        )
    begun: dict[str, Any] = {}
    for row in lines_of(process):
        begun = row
        if "codes" in row:
            yield row
    process.kill()
    process.wait()
    if begun and "codes" not in begun:
        last = errors.read_text("utf-8", "replace").strip()[-200:]
        wrong = [f"hung or died ({process.returncode}): {last}"]
        yield {**begun, "codes": [], "said": "", "seconds": PATIENCE, "cpu": 0, "mib": 0, "wrong": wrong}


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What a process prints, until it ends or prints nothing for too long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        patience, text = BEGINNING, b""
        while selector.select(patience):
            part = os.read(process.stdout.fileno(), 2**16)
            if not part:
                return
            *lines, text = (text + part).split(b"\n")
            for line in lines:
                yield json.loads(line)
                patience = PATIENCE


def faulty(row: dict[str, Any]) -> list[str]:
    """What is wrong with how an input was dealt with; time is the processor's, for others use the machine."""
    found = list(row["wrong"])
    found += [f"{row['cpu']} s"] if row["cpu"] > SECONDS else []
    return found + ([f"{row['mib']} MiB"] if row["mib"] > MIB else [])


def summary(rows: Sequence[dict[str, Any]], what: str) -> list[str]:
    """What came of inputs, in lines."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        failed = [row for row in own if faulty(row)]
        accepted = sum(not any(row["codes"]) for row in own if not faulty(row))
        longest, most = max(row["cpu"] for row in own), max(row["mib"] for row in own)
        refused, clock = len(own) - accepted - len(failed), max(row["seconds"] for row in own)
        counts = f"{refused:,} refused, {accepted:,} accepted, {len(failed):,} failed"
        times = f"{longest:.1f} s of a processor ({clock:.1f} s of the clock)"
        lines.append(f"{kind}: {len(own):,} {what}, {counts}; at most {times}, {most:,} MiB")
        lines += [f"  failed: {row['number']} {row['label']}: {faulty(row)[0][:200]}" for row in failed[:20]]
    return lines
