"""A study on real photographs: six methods, two networks, three data sets, five seeds; run by run.

    python benchmarks/study.py --output study --weights efficientnet_lite0.safetensors --data $RTK_DATA
    python benchmarks/study.py ... --part lite0-flowers --minutes 60     one part; begins no run after that
    python benchmarks/study.py ... --quick --seeds 1 --part lite0-flowers --methods CE    a try, in minutes
    python benchmarks/study.py --output study --page docs/study.md       the page alone, from what is there

What is finished is not run again, what was interrupted goes on: call the same command until it is through.
For each part and method, `rtk sweep`'s search comes first: six trials of half the length on validation images
alone, the same budget and number of values for each method. Then every seed is trained with the best values
and evaluated with the scores that suit the backbone; a JSON line of it is appended to `OUTPUT/rows.jsonl`,
and its checkpoints are deleted. A seed of all methods comes before the next seed, so that tables are there
early. The page has tables with paired bootstrap intervals over the seeds, a figure, costs, and what was cut.

The whole is sized for some four hours of a machine of two cores. Two processes with the same `--output` may
run beside each other there, each with `--methods` of its own and `--threads 1`: one cuts a data set while the
other waits. The seconds in their rows are then those of a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study_page import write_study_page
from study_plan import METHODS, PARTS, SEEDS, TRIALS, prepare_part, run_config, space_of, word

from rtk.evaluate.evaluate import evaluate_run
from rtk.runs.atomic import write_text
from rtk.runs.data_record import ENVIRONMENT
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result
from rtk.runs.sweep import Sweep
from rtk.train.seeds import train_to_end
from rtk.tune.results import best_trial
from rtk.tune.study import open_study, remaining_trials
from rtk.tune.summary import searched_values
from rtk.tune.sweep import launch_sweep, resume_sweep


class Study:
    """What is there of a study, and how to go on with it.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.folder = Path(options.output).absolute()
        options.output = self.folder / "runs"
        self.file = self.folder / "rows.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the finished runs; one that another process is just adding is not yet there."""
        text = self.file.read_text("utf-8") if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def run_all(self) -> bool:
        """Run what is missing; False where time was up first."""
        seeds = range(self.options.seeds)
        for part in self.options.part:
            place = prepare_part(PARTS[part], Path(self.options.data), self.folder / "data" / part)
            values = {}
            for method in self.options.methods:
                if self.is_late():
                    return False
                values[method] = self.tuned(part, method, place)
            for seed, method in ((seed, method) for seed in seeds for method in self.options.methods):
                key = {"part": part, "method": method, "seed": seed}
                if any(key.items() <= row.items() for row in self.rows()):
                    continue
                if self.is_late():
                    return False
                self.append({**key, **self.measured(key, place, values[method])})
        return True

    def is_late(self) -> bool:
        """Whether the time given is up."""
        given = self.options.minutes
        return given is not None and time.monotonic() - self.started > 60 * given

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, whole, and say what it is."""
        with self.file.open("ab", buffering=0) as file:  # one write: those of two processes do not mix
            file.write((json.dumps(row) + "\n").encode())
        shown = {key: round(row["summary"][key], 4) for key in ("accuracy", "aurc") if key in row["summary"]}
        print(
            f"{row['part']}, {row['method']}, seed {row['seed']}: {shown}, {row['seconds']:.0f} s", flush=True
        )

    def tuned(self, part: str, method: str, place: Path) -> dict[str, Any]:
        """The best values of a method's sweep, which is run as far as it is not yet."""
        kept = self.folder / "tuned" / f"{part}-{word(method)}.json"
        if kept.exists():
            return json.loads(kept.read_text("utf-8"))["values"]
        started, name = time.monotonic(), f"sweep-{part}-{word(method)}"
        space = space_of(PARTS[part], METHODS[method])
        if self.options.quick:
            space = space.model_copy(update={"trials": 1})
        if (Path(self.options.output) / name / "sweep.yaml").exists():
            sweep = Sweep.open(name, str(self.options.output))
            if remaining_trials(open_study(sweep.path, sweep.space()), sweep.space()):
                resume_sweep(sweep)
        else:
            sweep = launch_sweep(space, run_config(part, method, 0, place, self.options), name)
        best = best_trial(sweep)
        if best is None:
            raise SystemExit(f"{name}: no trial was finished; see {sweep.path}")
        values = searched_values(space, best.params)
        kept.parent.mkdir(exist_ok=True)
        found = {"values": values, "seconds": time.monotonic() - started, "trials": space.trials}
        write_text(kept, json.dumps(found))
        for checkpoints in sweep.path.glob("trial-*/checkpoints"):
            shutil.rmtree(checkpoints)
        print(f"{part}, {method}: {values} of {space.trials} trials in {found['seconds']:.0f} s", flush=True)
        return values

    def measured(self, key: dict[str, Any], place: Path, values: dict[str, Any]) -> dict[str, Any]:
        """Metrics and cost of a run, which is trained and evaluated; its checkpoints are deleted."""
        config = run_config(key["part"], key["method"], key["seed"], place, self.options, values)
        run = RunFolder(Path(config.output) / f"{key['part']}-{word(key['method'])}-seed{key['seed']}")
        started = time.monotonic()
        status, signal = train_to_end(run, config)
        if status != "finished":
            raise SystemExit(128 + signal if signal else f"{run.name}: {status}; the same command goes on")
        trained = time.monotonic() - started
        evaluate_run(run)
        result = read_result(run)
        seconds = time.monotonic() - started
        shutil.rmtree(run.checkpoints)
        hardware = run.read_json(ENVIRONMENT)["hardware"]
        return {
            "machine": f"{hardware['cores']} cores of {hardware['cpu']}",
            "summary": result["summary"],
            "scores": result["scores"],
            "values": values,
            "seconds": seconds,
            "training_seconds": trained,
        }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of rows, runs and data")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of prepared data sets, as RTK_DATA; none: the page alone"
    )
    parser.add_argument("--weights", metavar="FILE", help="ImageNet weights of EfficientNet-Lite0")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--minutes", type=float, help="begin nothing after so many")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, help="of a worker; 1 where others use the machine too (default: all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="one epoch and one trial: to see that it works")
    parser.add_argument("--page", metavar="FILE", help="Markdown page to write; its figures go beside it")
    options = parser.parse_args(arguments)
    if (
        options.data
        and any(PARTS[part].rates == "pretrained" for part in options.part)
        and not options.weights
    ):
        parser.error("--weights: wanted the file of EfficientNet-Lite0's weights, or --part resnet18-cifar20")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, write the page, end in the seconds taken."""
    options = parse(arguments)
    study = Study(options)
    study.folder.mkdir(parents=True, exist_ok=True)
    is_whole = study.run_all() if options.data else True
    if not is_whole:
        print("time is up; the same command goes on", file=sys.stderr)
    rows = study.rows()
    if options.page:
        tuned = {
            path.stem: json.loads(path.read_text("utf-8"))
            for path in sorted((study.folder / "tuned").glob("*.json"))
        }
        print(f"page: {write_study_page(rows, tuned, Path(options.page))}")
    print(f"runs {len(rows)} of {len(PARTS) * len(METHODS) * SEEDS}, each method {TRIALS} trials a part")
    print(f"seconds {time.monotonic() - study.started:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
