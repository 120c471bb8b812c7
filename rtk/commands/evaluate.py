"""`rtk evaluate`: predictions, scores and metrics of a run."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands.evaluate_ensemble import ensemble_of, split_runs
from rtk.commands.evaluate_group import group_summary, print_group
from rtk.commands.output import print_json, print_table
from rtk.commands.parsers import Options, Parsers, add_command, add_json, add_labels_by, add_plugin, positive

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.runs.folder import RunFolder


def add(commands: Parsers) -> None:
    """The parser of `rtk evaluate`."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        "measure a run: predictions, scores, metrics for every OOD set",
        """rtk evaluate RUN
        rtk evaluate RUN --suite cifar100 --scores all
        rtk evaluate RUN --ood cifar10=data/cifar10/test.parquet --ood far:xrays=data/xrays
        rtk evaluate RUN --protocol aps --validation-ood data/places.parquet
        rtk evaluate RUN --risk 0.02                  thresholds for 2 % wrong among the accepted
        rtk evaluate RUN --risk 0.02 --confidence 0.95    held on images to come, with 95 % confidence
        rtk evaluate RUN --risk 0.02 --confidence 0.95 --calibration photos/checked
        rtk evaluate RUN --risk 0.05 --confidence 0.9 --floor 0.5 --sets raps
        rtk evaluate RUN --corruptions 1000           15 corruptions x 5 severities of 1,000 test images
        rtk evaluate RUN --corrupted data/cifar10c --scores rr_bs rr_fast
        rtk evaluate RUN --scores msp energy --bootstrap 1000 --json
        rtk evaluate NAME                             all runs of rtk train --seeds, and their mean
        rtk evaluate RUN RUN RUN --ensemble           several networks as one: a run of its own
        rtk evaluate NAME --ensemble --average logits    a deep ensemble of all seeds""",
    )
    parser.add_argument(
        "run",
        help="run folder or its URI, its name under --output, last, or NAME of the runs NAME-seed0, "
        "NAME-seed1, ...",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="config overrides of evaluate.*; with --ensemble also further runs",
    )
    _add_sets(parser)
    _add_ensemble(parser)
    _add_measures(parser)
    add_labels_by(parser)
    add_plugin(parser, "scores; the run keeps a copy")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where a run's name is looked for")
    add_json(parser)


def _add_measures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scores",
        nargs="+",
        metavar="SCORE",
        help="scores to compare; sure_plus: those of SURE+'s tables, recommended: those that suit"
        " the backbone, all: every one (default: the recipe's)",
    )
    parser.add_argument(
        "--protocol",
        choices=["fixed", "aps", "rat_splits"],
        help="how hyper-parameters of scores are found (default: the recipe's, fixed)",
    )
    parser.add_argument(
        "--risk", type=float, metavar="R", help="choose thresholds for this share of wrong accepted images"
    )
    _add_guarantee(parser)
    parser.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="95 %% intervals from N resamples (evaluate.ds_method=grid makes them faster)",
    )
    parser.add_argument(
        "--corruptions",
        nargs="?",
        type=positive,
        const=0,
        metavar="ROWS",
        help="measure common corruptions, of the first ROWS test images (default: of all)",
    )
    parser.add_argument(
        "--corrupted",
        metavar="DIR",
        help="measure images that others have corrupted (CIFAR-10-C): sets CORRUPTION-SEVERITY.parquet",
    )


def _add_guarantee(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confidence", type=float, metavar="C", help="hold the risk on images to come, with this probability"
    )
    parser.add_argument(
        "--method",
        choices=["ltt", "crc", "empirical"],
        help="how the risk is held: with --confidence (ltt), in expectation, or on the calibration images",
    )
    parser.add_argument(
        "--floor", type=float, metavar="F", help="no rule that accepts less than this share of ID images"
    )
    parser.add_argument(
        "--per-class", action="store_true", default=None, help="hold the risk for every predicted class"
    )
    parser.add_argument(
        "--ood-acceptance",
        type=float,
        metavar="A",
        help="accept at most this share of OOD images mixed as --validation-ood",
    )
    parser.add_argument(
        "--rule",
        choices=["rectangle", "linear", "monotone"],
        help="accept by two thresholds, or by one of both scores together, fitted with --validation-ood",
    )
    parser.add_argument(
        "--sets",
        choices=["lac", "aps", "raps"],
        help="give likely-wrong images a set of classes (evaluate.prediction_sets.coverage, 0.9)",
    )


def _add_ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ensemble", action="store_true", help="measure the runs as one network, with how much they disagree"
    )
    parser.add_argument(
        "--average",
        choices=["softmax", "logits"],
        help="with --ensemble: what is averaged over its members (default: softmax)",
    )
    parser.add_argument(
        "--snapshots",
        action="store_true",
        help="with --ensemble: every numbered checkpoint that the runs have kept is a member",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="with --ensemble: of its run (default: made of its members, so that they give the same one)",
    )


def _add_sets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite",
        metavar="SUITE",
        help="OOD sets of a benchmark: cifar10, cifar100, imagenet1k, ... or a YAML file",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out sets of the suite that are not there"
    )
    parser.add_argument(
        "--ood",
        nargs="+",
        action="extend",
        metavar="NAME=PATH",
        help="OOD test set; near:NAME=PATH or far:NAME=PATH where NAME is in no shipped suite",
    )
    parser.add_argument("--test", metavar="PATH", help="in-distribution test set (default: the recipe's)")
    parser.add_argument("--validation-ood", metavar="PATH", help="OOD images to tune on, never to test on")
    parser.add_argument(
        "--calibration",
        metavar="PATH",
        help="labelled images of the run's classes to choose the thresholds of --risk on (default: the"
        " validation images)",
    )


def run(options: Options) -> int:
    """`rtk evaluate`."""
    from rtk.runs.seeds import open_runs

    options.overrides, others = split_runs(options)
    runs = open_runs([options.run, *others], options.output)
    if options.ensemble:
        runs, options.checkpoint = [ensemble_of(runs, options, configured)], "best"
    results = {run.name: _evaluate(run, options) for run in runs}
    group = group_summary(runs, results) if len(runs) > 1 else None
    if options.json:
        print_json({"runs": results, **group} if group else results[runs[0].name])
    elif group:
        print_group(options.run, results, group["unlike"])
    return int(not all(one.get("decision", {}).get("reached", True) for one in results.values()))


def _evaluate(run: RunFolder, options: Options) -> dict[str, Any]:
    """Measure a run, write its page and tables, and print what came of it but for `--json`."""
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.report.run_page import write_report
    from rtk.report.run_tables import write_run_tables
    from rtk.tracking.sending import send_evaluation

    run.add_plugins(options.plugin)
    config = configured(run, options)
    result = evaluate_run(
        run, config, options.checkpoint, corrupted=options.corruptions, corrupted_sets=options.corrupted
    )
    write_run_tables(run)
    report = write_report([run])
    send_evaluation(run)
    if not options.json:
        _print_evaluation(run, result, report)
    return {**result, "report": str(report)}


def configured(run: RunFolder, options: Options) -> RunConfig:
    """The config that a run is evaluated with."""
    from rtk.config.errors import ConfigError
    from rtk.evaluate.sets import evaluation_config
    from rtk.evaluate.suites import parse_ood

    ood = [parse_ood(text) for text in options.ood or []]
    overrides = [*_evaluate_overrides(options), *options.overrides]
    config = evaluation_config(run, overrides, options.suite, ood, options.allow_missing)
    if options.calibration is not None and config.evaluate.risk is None:
        raise ConfigError("--calibration: got images to choose thresholds on, wanted --risk R with them")
    return config


def _evaluate_overrides(options: Options) -> list[str]:
    """Options of `rtk evaluate` as the config keys that they stand for."""
    from rtk.config.overrides import override_text

    keys = {
        "evaluate.scores": options.scores and [*options.scores, *["disagreement"] * options.ensemble],
        "evaluate.protocol": options.protocol,
        "evaluate.risk": options.risk,
        "evaluate.guarantee.confidence": options.confidence,
        "evaluate.guarantee.method": options.method,
        "evaluate.guarantee.floor": options.floor,
        "evaluate.guarantee.per_class": options.per_class,
        "evaluate.guarantee.ood_acceptance": options.ood_acceptance,
        "evaluate.prediction_sets.method": options.sets,
        "evaluate.rule": options.rule,
        "evaluate.bootstrap": options.bootstrap,
        "data.labels_by": options.labels_by,
        "data.test": options.test,
        "data.validation_ood": options.validation_ood,
        "data.calibration": options.calibration,
    }
    return [override_text(key, value) for key, value in keys.items() if value is not None]


def _print_evaluation(run: RunFolder, result: dict[str, Any], report: Path) -> None:
    from rtk.report.evaluation_lines import decision_lines, evaluation_lines, rule_lines
    from rtk.report.tables import metric_rows, score_rows
    from rtk.runs.results import read_scores

    counts = Counter(read_scores(run)["set"].to_pylist())
    print_table(f"{run.name} ({result['checkpoint']})", score_rows(result))
    print("\n".join(evaluation_lines(result, counts)))
    if "full_spectrum" in result:
        both = {"test": result["summary"], "test and shifted": result["full_spectrum"]["summary"]}
        print_table("full spectrum: images under covariate shift count as in-distribution", metric_rows(both))
    if "corruptions" in result:
        means = ", ".join(f"{key} {value:.4f}" for key, value in result["corruptions"].items())
        print(f"corruptions, mean of all types and severities: {means}")
    for score, own in result.get("corruptions_by_score", {}).items():
        print(f"  by {score}: " + ", ".join(f"{key} {value:.4f}" for key, value in own.items()))
    for line in rule_lines(result):
        print(line)
    if "decision" in result:
        print("\n".join(decision_lines(result["decision"], result["confidence"], result["ood_score"])))
    for name, count in result["skipped"].items():
        print(
            f"{name}: left out {count} images that cannot be decoded, see {run.evaluation / 'skipped.json'}"
        )
    print(f"tables: {run.evaluation / 'table.{csv,json,md,tex,html}'}")
    print(f"report: {report}")
