"""What each `rtk` command does: call the library, print the outcome."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rtk.config.load import ConfigError, find_recipe, flatten, load_with_origins, shipped_recipes

Options = argparse.Namespace
INTERRUPTED: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}


def demo(options: Options) -> int:
    """`rtk demo`."""
    from rtk.demo import run_demo
    from rtk.evaluate.tables import metric_rows

    result = run_demo(options.out, options.seeds)
    if options.json:
        _print_json(result)
        return 0
    columns = {"baseline": result["baseline"], "SURE+": result["sure_plus"]}
    _print_table("baseline and SURE+ on handwritten digits", metric_rows(columns))
    print(f"report: {result['report']}")
    print(f"MLflow: mlflow ui --backend-store-uri sqlite:///{Path(options.out).absolute() / 'mlflow.db'}")
    return 0


def train(options: Options) -> int:
    """`rtk train`."""
    if options.resume and (options.dry_run or options.print_config):
        raise ConfigError("--resume: cannot be combined with --dry-run or --print-config")
    if options.print_config:
        return _print_config(options)
    from rtk.train import launch

    if options.resume:
        from rtk.run_folder import RunFolder

        # With --resume the first positional is an override, not a recipe.
        overrides = [text for text in (options.recipe, *options.overrides) if text]
        outcome = launch.resume_training(RunFolder.open(options.resume, options.output), overrides)
    elif options.dry_run:
        return _dry_run(options)
    else:
        outcome = launch.launch_training(load_with_origins(_recipe(options), options.overrides).config)
    summary = {
        "run": outcome.run.name,
        "path": str(outcome.run.path),
        "status": outcome.status,
        **outcome.metrics,
    }
    if options.json:
        _print_json(summary)
    else:
        print(f"{outcome.status}: {outcome.run.path}")
        command = "evaluate" if outcome.status == "finished" else "train --resume"
        print(f"next: rtk {command} {outcome.run.path}")
    return INTERRUPTED[outcome.signal] if outcome.status == "interrupted" and outcome.signal else 0


def _recipe(options: Options) -> str:
    if not options.recipe:
        raise ConfigError("recipe: got none, wanted the name of a recipe or a YAML file (rtk recipes ls)")
    recipe: str = options.recipe
    return recipe


def _print_config(options: Options) -> int:
    loaded = load_with_origins(_recipe(options), options.overrides)
    leaves = dict(flatten(loaded.config.model_dump(mode="json")))
    if options.json:
        _print_json({key: {"value": value, "origin": loaded.origins[key]} for key, value in leaves.items()})
        return 0
    width = max(len(f"{key}: {value}") for key, value in leaves.items())
    for key, value in leaves.items():
        print(f"{f'{key}: {value}':<{width}}  # {loaded.origins[key]}")
    return 0


def _dry_run(options: Options) -> int:
    from rtk.dry_run import dry_run

    done = dry_run(load_with_origins(_recipe(options), options.overrides).config)
    if options.json:
        _print_json(done)
    else:
        print("\n".join(f"{name}: {outcome}" for name, outcome in done.items()))
    return 0


def evaluate(options: Options) -> int:
    """`rtk evaluate`."""
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.evaluate.report import write_report
    from rtk.evaluate.sets import evaluation_config
    from rtk.evaluate.suites import parse_ood
    from rtk.run_folder import RunFolder
    from rtk.tracking import send_evaluation

    run = RunFolder.open(options.run, options.output)
    ood = [parse_ood(text) for text in options.ood]
    overrides = [*_evaluate_overrides(options), *options.overrides]
    config = evaluation_config(run, overrides, options.suite, ood, options.allow_missing)
    result = evaluate_run(run, config, options.checkpoint, corrupted=options.corruptions)
    report = write_report([run])
    send_evaluation(run)
    if options.json:
        _print_json({**result, "report": str(report)})
    else:
        _print_evaluation(run, result, report)
    return 0 if result.get("decision", {}).get("reached", True) else 1


def _evaluate_overrides(options: Options) -> list[str]:
    """Options of `rtk evaluate` as the config keys that they stand for."""
    keys = {
        "evaluate.scores": options.scores,
        "evaluate.protocol": options.protocol,
        "evaluate.risk": options.risk,
        "evaluate.bootstrap": options.bootstrap,
        "data.test": options.test,
        "data.validation_ood": options.validation_ood,
    }
    return [f"{key}={json.dumps(value)}" for key, value in keys.items() if value is not None]


def _print_evaluation(run: Any, result: dict[str, Any], report: Path) -> None:
    from rtk.evaluate.tables import score_rows

    _print_table(f"{run.name} ({result['checkpoint']})", score_rows(result))
    if "corruptions" in result:
        means = ", ".join(f"{key} {value:.4f}" for key, value in result["corruptions"].items())
        print(f"corruptions, mean of all types and severities: {means}")
    if "decision" in result:
        print("\n".join(_decision_lines(result["decision"])))
    print(f"tables: {run.evaluation / 'table.{csv,json,md,tex,html}'}")
    print(f"report: {report}")


def _decision_lines(decision: dict[str, Any]) -> list[str]:
    if not decision["reached"]:
        return [
            f"no thresholds reach a risk of {decision['risk']:.2%} on the validation images: no decision rule"
        ]
    lines = [f"decision rule for a risk of {decision['risk']:.2%}:"]
    for name in ("validation", "test", "test_and_near", "test_and_far"):
        if name in decision:
            risk, coverage = decision[name]["risk"], decision[name]["coverage"]
            reached = "none accepted" if risk is None else f"risk {risk:.2%}"
            lines.append(f"  {name.replace('_', ' ')}: coverage {coverage:.2%}, {reached}")
    return lines


def report(options: Options) -> int:
    """`rtk report`."""
    from rtk.evaluate.evaluate import read_result
    from rtk.evaluate.report import write_report
    from rtk.evaluate.tables import pooled_rows, write_table
    from rtk.run_folder import open_runs

    runs = open_runs(options.runs, options.output)
    tables = [Path(table) for table in options.table]
    rows = pooled_rows({run.name: read_result(run) for run in runs})
    for table in tables:
        write_table(table, rows)
    path = write_report(runs, Path(options.out) if options.out else None)
    if options.json:
        _print_json({"report": str(path), "tables": [str(table) for table in tables]})
    else:
        print("\n".join([*(f"table: {table}" for table in tables), f"report: {path}"]))
    return 0


def sweep(options: Options) -> int:
    """`rtk sweep`."""
    from rtk.tune import space as spaces
    from rtk.tune import sweep as sweeps

    changes = {key: getattr(options, key) for key in ("trials", "concurrent") if getattr(options, key)}
    if options.resume:
        if options.space or options.overrides or options.sampler or options.scheduler or options.name:
            raise ConfigError("--resume: only --trials and --concurrent may change")
        done = sweeps.resume_sweep(sweeps.Sweep.open(options.resume, options.output), changes)
    else:
        if not options.space or not options.recipe:
            raise ConfigError("sweep: wanted a search space and a recipe, or --resume NAME")
        changes |= {f"{k}.name": v for k in ("sampler", "scheduler") if (v := getattr(options, k))}
        space = spaces.load_space(options.space, changes)
        config = spaces.base_config(space, options.recipe, options.overrides)
        done = sweeps.launch_sweep(space, config, options.name)
    summary = {"sweep": done.name, "path": str(done.path)}
    if options.json:
        _print_json(summary)
    else:
        print(f"finished: {done.path}")
    return 0


def compare(options: Options) -> int:
    """`rtk compare`."""
    from rtk.compare.compare import compare as compare_runs
    from rtk.compare.table import as_csv, as_records, as_text, difference_records, heading

    keys = ("runs", "sweep", "experiment", "where", "metrics", "sort", "output")
    found = compare_runs(**{key: getattr(options, key) for key in keys})
    written = []
    if options.html:
        from rtk.compare.page import write_page

        given = (found.title, found.groups, found.metrics, found.differences, found.space, found.importances)
        written.append(write_page(Path(options.html), *given))
    if options.csv:
        written.append(Path(options.csv))
        written[-1].write_text(as_csv(found.groups))
    if options.json:
        records = {"runs": as_records(found.groups), "differences": difference_records(found.differences)}
        _print_json(records | {"written": [str(path) for path in written]})
        return 0
    print(found.title, as_text(found.groups, found.metrics), sep="\n\n")
    for one in found.differences:
        sure = "significant" if one.is_significant else "not significant"
        interval = f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
        print(f"{one.group} - {one.baseline}: {heading(one.metric)} {interval}, {sure} ({one.seeds} seeds)")
    for path in written:
        print(f"written: {path}")
    return 0


def sync(options: Options) -> int:
    """`rtk sync`."""
    from rtk.run_folder import RunFolder
    from rtk.tracking import folders_to_sync, is_mirrored
    from rtk.tracking import sync as send_all

    found = folders_to_sync(Path(options.output))
    wanted = [Path(name) for name in options.runs]
    wanted = [path if path.is_dir() else Path(options.output) / path for path in wanted]
    unknown = [str(path) for path in wanted if not is_mirrored(RunFolder(path))]
    if unknown:
        raise ConfigError(
            f"run: got {unknown[0]!r}, wanted a run or a sweep, or a name under {options.output}/"
        )
    roots = [path.absolute() for path in wanted]
    chosen = [run for run in found if run.path.parent in roots] if roots else found
    outcome = send_all([*(RunFolder(path) for path in roots), *chosen])
    if options.json:
        _print_json(outcome)
    else:
        for name, sent in outcome.items():
            print(f"{name}: {sent} rows sent" if isinstance(sent, int) else f"{name}: not sent, {sent}")
    return 0 if all(isinstance(sent, int) for sent in outcome.values()) else 1


def export(options: Options) -> int:
    """`rtk export`."""
    from rtk.export import export_run, log_to_mlflow
    from rtk.run_folder import RunFolder

    if options.register and options.no_mlflow:
        raise ConfigError("--register: cannot be combined with --no-mlflow")
    run = RunFolder.open(options.run, options.output)
    folder = export_run(run, options.checkpoint)
    uri = None if options.no_mlflow else log_to_mlflow(run, folder, options.register)
    if options.json:
        _print_json({"folder": str(folder), "mlflow": uri})
        return 0
    print(f"exported: {folder}")
    if uri is not None:
        print(f"MLflow: {uri}")
    print(f"next: rtk predict {run.path} IMAGES")
    return 0


def predict(options: Options) -> int:
    """`rtk predict`; 1 where an image could not be read."""
    from rtk.console import progress_bar
    from rtk.predict_images import find_images, open_model, predict_files

    files = find_images(options.images)
    model = open_model(options.model)
    rows = []
    with progress_bar("predicting") as progress:
        for row in predict_files(model, files, progress):
            rows.append(row)
            if options.jsonl:
                print(json.dumps(row), flush=True)
    if not options.jsonl:
        _print_table(model.origin["run"], _prediction_rows(rows))
    return int(any(row["error"] for row in rows))


def _prediction_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The image comes last: a long path would squeeze what matters."""
    numbers = ("probability", "confidence", "ood_score")
    table = [["decision", "label", *numbers, "image"]]
    for row in rows:
        figures = ["" if row[name] is None else f"{row[name]:.4g}" for name in numbers]
        table.append([row["decision"] or "error", row["label"] or row["error"], *figures, row["image"]])
    return table


def data_prepare(options: Options) -> int:
    """`rtk data prepare`."""
    from rtk.console import progress_bar
    from rtk.data.prepare import BadImagesError, prepare

    try:
        with progress_bar("checking images") as progress:
            done = prepare(
                Path(options.source),
                Path(options.out),
                skip_bad=options.skip_bad,
                image_size=options.image_size,
                progress=progress,
            )
    except BadImagesError as error:
        print(f"rtk: error: {error}\nnothing was written; --skip-bad leaves them out", file=sys.stderr)
        return 1
    if options.json:
        _print_json(done.manifest())
        return 0
    print(f"{done.rows} images, {len(done.classes)} classes -> {done.out} (from {done.kind})")
    for summary in done.files:
        print(f"  {summary.file}: {summary.rows} images")
    _print_some("skipped, could not be read", [f"{bad.origin}: {bad.reason}" for bad in done.skipped])
    _print_some("ignored, no image of a class", list(done.ignored))
    return 0


def data_inspect(options: Options) -> int:
    """`rtk data inspect`."""
    from rtk.data.dataset import open_dataset
    from rtk.data.inspect_data import contact_sheet, inspect_dataset

    found = inspect_dataset(options.path, sample=options.sample)
    contact_sheet(open_dataset(options.path, need_classes=False)).save(options.sheet)
    if options.json:
        _print_json({**asdict(found), "contact_sheet": options.sheet})
        return 0
    print(f"{found.path}: {found.rows} images, {len(found.classes)} classes, {found.files} files")
    for name, value in asdict(found.balance).items():
        print(f"  images a class, {name}: {value}")
    for name in ("sizes", "modes", "encodings"):
        print(f"  {name}: " + ", ".join(f"{kind} ({count})" for kind, count in getattr(found, name).items()))
    print(f"  encoded bytes: {found.bytes}, of {found.looked_at} images looked at")
    print(f"  duplicates: {found.duplicates} ({found.conflicts} with another label)")
    print(f"  unreadable: {found.unreadable}")
    print(f"contact sheet: {options.sheet}")
    return 0


def data_views(options: Options) -> int:
    """`rtk data views`."""
    from rtk.data.view_sheet import view_sheet

    config = load_with_origins(options.recipe, options.overrides).config
    try:
        view_sheet(config, options.images).save(options.out)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {options.out} ({error.strerror or error})") from None
    if options.json:
        _print_json({"views": options.out})
    else:
        print(f"views: {options.out}")
    return 0


def recipes_ls(options: Options) -> int:
    """`rtk recipes ls`."""
    summaries = {name: _first_comment(path) for name, path in shipped_recipes().items()}
    if options.json:
        _print_json(summaries)
        return 0
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:<{width}}  {summary}")
    return 0


def recipes_cat(options: Options) -> int:
    """`rtk recipes cat`."""
    print(find_recipe(options.recipe).read_text(), end="")
    return 0


def recipes_cp(options: Options) -> int:
    """`rtk recipes cp`."""
    target = Path(options.target)
    if target.exists():
        raise ConfigError(f"target: {options.target} exists already")
    shutil.copyfile(find_recipe(options.recipe), target)
    print(f"edit {target}, then: rtk train {target}")
    return 0


def recipes_validate(options: Options) -> int:
    """`rtk recipes validate`."""
    loaded = load_with_origins(options.recipe, options.overrides)
    own = sum(origin != "default" for origin in loaded.origins.values())
    print(f"valid: {options.recipe} ({own} values set, {len(loaded.origins) - own} defaults)")
    return 0


def doctor(options: Options) -> int:
    """`rtk doctor`."""
    from rtk.doctor import examine

    checks = examine()
    if options.json:
        _print_json({check.name: {"ok": check.ok, "found": check.found} for check in checks})
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
    return 0 if all(check.ok for check in checks) else 1


def completion(options: Options) -> int:
    """`rtk completion`."""
    import shtab

    from rtk.cli import build_parser

    print(shtab.complete(build_parser(), options.shell))
    return 0


def _first_comment(path: Path) -> str:
    return path.read_text().splitlines()[0].lstrip("# ")


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1))


def _print_some(title: str, lines: list[str], most: int = 10) -> None:
    if lines:
        print(f"{title}: {len(lines)}")
        print("\n".join(f"  {line}" for line in lines[:most]))


def plan(options: Options) -> int:
    """`rtk plan`."""
    from rtk.plan import GIB, USABLE, count_classes, plan_recipe

    workers = [f"train.workers={options.gpus}"] if options.gpus else []
    config = load_with_origins(options.recipe, [*options.overrides, *workers]).config
    plans = plan_recipe(config, options.classes or count_classes(config))
    memory = options.gpu_memory * GIB
    fitting = [stage.stage for stage in plans if stage.fits(memory)]
    if options.json:
        stages = [{**asdict(stage), "total": stage.total, "fits": stage.fits(memory)} for stage in plans]
        _print_json(
            {"gpu_memory": round(memory), "stages": stages, "first_that_fits": next(iter(fitting), None)}
        )
        return 0
    rows = [["GiB a rank", *(f"ZeRO-{stage.stage}" for stage in plans)]]
    rows += [[name, *(f"{stage.parts[name] / GIB:.3g}" for stage in plans)] for name in plans[0].parts]
    rows.append(["total", *(f"{stage.total / GIB:.3g}" for stage in plans)])
    rows.append(
        [f"fits {options.gpu_memory:g} GiB", *("yes" if stage.fits(memory) else "no" for stage in plans)]
    )
    rows.append(["most alive in", *(stage.moment for stage in plans)])
    rows.append(["sent a step", *(f"{stage.communication / GIB:.3g}" for stage in plans)])
    share = config.train.batch_size // (config.train.workers * config.train.accumulation)
    _print_table(f"{config.name}: {config.train.workers} ranks, {share} images a pass", rows)
    print(f"A stage fits where it fills at most {USABLE:.0%} of a device. Activations are an estimate.")
    if fitting:
        print(f"first that fits, and the fastest: train.zero_stage={fitting[0]}")
    else:
        print("No stage fits: take more GPUs, or cut a batch into micro-batches (train.accumulation).")
    return 0


def _print_table(title: str, rows: list[list[str]]) -> None:
    """Print rows, the first of which holds the headings."""
    from rich.console import Console
    from rich.table import Table

    print(title)
    table = Table()
    for index, heading in enumerate(rows[0]):
        justify: Any = "left" if index == 0 else "right"
        table.add_column(heading, justify=justify, no_wrap=index == 0, overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)
