"""`rtk demo --photos`: the demo from a folder of one's own pictures, in minutes."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtk.commands.data import add_layout
from rtk.commands.output import print_json
from rtk.commands.parsers import Options, positive

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.config.starter import Pictures
    from rtk.data.sets.dataset import ImageDataset
    from rtk.runs.folder import RunFolder

NEEDS_PHOTOS = (
    "hold_out",
    "weights",
    "model",
    "images",
    "skip_bad",
    "split_folders",
    "classes_from",
    "split",
)
SEEDS, ENOUGH_SEEDS = 2, 5
IMAGES = 1000  # to train on where there is no GPU: minutes on two cores
# What each method changes in the recipe, which is SURE+'s.
METHODS: dict[str, list[str]] = {
    "baseline": [
        *("objective.regmixup.weight=0", "objective.regpixmix.weight=0"),
        *("sharpness.variant=none", "averaging.kind=none"),
    ],
    "sure_plus": [],
}
HELD_OUT = 500  # images of the class held out to test on, at most
FROZEN = 6  # layers of a pretrained network without a GPU: a backward pass spends most of its time there


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a demo of one's own pictures."""
    own = parser.add_argument_group("your own pictures")
    own.add_argument(
        "--photos", metavar="DIR", help="folder with a sub-folder for each class, or prepared data"
    )
    own.add_argument(
        "--hold-out", metavar="CLASS", help="never train on this class, but test how unfamiliar it looks"
    )
    own.add_argument("--weights", metavar="FILE", help="pretrained weights to start from (much better)")
    own.add_argument(
        "--model", metavar="NAME", help="backbone of the weights (default: the one that they fit)"
    )
    own.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help=f"train on N images (default: {IMAGES:,}, and all of them where there is a GPU)",
    )
    own.add_argument("--skip-bad", action="store_true", help="leave broken images out instead of failing")
    own.add_argument("--split", metavar="A/B/C", help="shares of train, validation, test")
    add_layout(own)


def check_options(options: Options) -> None:
    """Refuse what means nothing without `--photos`, or without `--weights`.

    Raises:
        ConfigError: naming the option.
    """
    from rtk.config.errors import ConfigError

    for name in NEEDS_PHOTOS:
        if getattr(options, name) not in (None, False) and not options.photos:
            raise ConfigError(f"--{name.replace('_', '-')}: wanted --photos DIR with it")
    if options.model and not options.weights:
        raise ConfigError("--model: wanted --weights FILE with it")


def run(options: Options) -> int:
    """`rtk demo --photos`."""
    from rtk.commands.compare import print_differences
    from rtk.report.comparison import compare
    from rtk.report.comparison_page import write_comparison
    from rtk.report.comparison_table import as_text
    from rtk.report.run_page import write_report

    home = find_home(options)
    configs = make_configs(options, home)
    seeds = range(options.seeds or SEEDS)
    runs = {name: _trained(config, seeds, _group(home.name, name)) for name, config in configs.items()}
    summaries = {name: [_measured(run) for run in own] for name, own in runs.items()}
    report = write_report([own[0] for own in runs.values()], home / "report.html")
    found = compare(runs=[_group(home.name, name) for name in runs], output=options.output)
    page = write_comparison(found, home / "comparison.html")
    if options.json:
        print_json({**summaries, "report": str(report.absolute()), "comparison": str(page.absolute())})
        return 0
    print(as_text(found.groups, found.metrics))
    print_differences(found.differences)
    if 1 < len(seeds) < ENOUGH_SEEDS:
        print(f"intervals over {len(seeds)} seeds are rough; --seeds {ENOUGH_SEEDS} says more")
    best = runs["sure_plus"][0]
    print(f"report: {report}\ncomparison: {page}\nrecipe: {_recipe(home)}, to read and change")
    print(f"next: rtk evaluate {best.path} --risk 0.05, then rtk export {best.path}")
    return 0


def find_home(options: Options) -> Path:
    """Folder of what the demo makes beside its runs; its name is the runs' too."""
    from rtk.config.errors import ConfigError
    from rtk.config.load import NOT_IN_NAMES

    source = Path(options.photos)
    if not source.exists():
        raise ConfigError(
            f"--photos: {source} does not exist, wanted a folder with a sub-folder for each class"
        )
    words = [source.resolve().stem, *(["without", options.hold_out] if options.hold_out else [])]
    return Path(options.output) / NOT_IN_NAMES.sub("_", "_".join(words))


def _recipe(home: Path) -> Path:
    return home / "recipe.yaml"


def _group(name: str, method: str) -> str:
    """Name of a method's runs, without their seeds."""
    return f"{name}_{method}"


# ---------------------------------------------------------------- pictures


def make_configs(options: Options, home: Path) -> dict[str, RunConfig]:
    """Config of each method, for the chosen images."""
    import torch

    from rtk.commands.init import find_pretrained, read_pictures
    from rtk.config.load import load_config
    from rtk.config.starter import starter_recipe
    from rtk.runs.atomic import write_text

    pretrained = find_pretrained(options.weights, options.model) if options.weights else None
    small = not torch.cuda.is_available()
    sets = _sets(options, home, IMAGES if small else None)
    pictures = read_pictures(sets, pretrained)
    write_text(_recipe(home), starter_recipe(pictures, str(_recipe(home))))
    changes = [f"output={json.dumps(options.output)}", "evaluate.scores=[recommended]"]
    changes += ["data.far_ood.digits='builtin:digits/test.parquet'"]
    if options.hold_out:
        changes.append(f"data.near_ood.held_out={json.dumps((sets / 'held_out/test.parquet').as_posix())}")
    changes += make_quick(pictures) if small else []
    return {name: load_config(str(_recipe(home)), [*changes, *own]) for name, own in METHODS.items()}


def _sets(options: Options, home: Path, most: int | None) -> Path:
    """Prepared train, validation and test images of the classes that are kept; the others in `held_out`."""
    from rtk.data.prepare.choose import choose_images
    from rtk.data.sets.dataset import open_dataset

    prepared, opened = _prepared(options, home)
    kept = [name for name in opened["train"].classes if name != options.hold_out]
    folder = home / "sets"
    counts = {
        role: choose_images(one, kept, folder, role, options.images or most if role == "train" else None)
        for role, one in opened.items()
    }
    if options.hold_out:
        whole = open_dataset(prepared)  # of all splits: nothing is trained on any of them
        counts["held out"] = choose_images(whole, [options.hold_out], folder / "held_out", "test", HELD_OUT)
    _say(", ".join(f"{role} {count:,}" for role, count in counts.items()) + " images")
    return folder


def _prepared(options: Options, home: Path) -> tuple[Path, dict[str, ImageDataset]]:
    """The folder of all prepared images, made where it is not there yet, and its sets by role.

    Raises:
        ConfigError: there is no test set, or no such class to hold out.
    """
    from rtk.commands.init import ROLES, find_roles, prepare_pictures
    from rtk.config.errors import ConfigError
    from rtk.data.sets.dataset import open_dataset

    prepared = home / "prepared"
    if not prepared.exists():
        _say(f"preparing {options.photos}")
        prepared = prepare_pictures(Path(options.photos), prepared, options)
    opened = {role: open_dataset(path) for role, path in find_roles(prepared)}
    if "train" not in opened or "test" not in opened:
        raise ConfigError(
            f"--photos: {options.photos} has {', '.join(opened) or 'none'} of {', '.join(ROLES)}, "
            "wanted train and test, or one set without splits"
        )
    classes = opened["train"].classes
    if options.hold_out and (options.hold_out not in classes or len(classes) < 3):
        raise ConfigError(
            f"--hold-out: got {options.hold_out!r}, wanted one of three or more classes; "
            f"there are {', '.join(classes)}"
        )
    return prepared, opened


def make_quick(pictures: Pictures) -> list[str]:
    """Overrides with which both methods take minutes on two cores."""
    from rtk.config.starter import image_size

    steady = ["train.batch_size=32", "averaging.decay=0.95", "averaging.ramp=20", "schedule.warmup=0ep"]
    if pictures.pretrained is None:
        side = min(48, image_size(pictures))
        return [*steady, *_sized(side), "train.duration=10ep", "model.name=resnet18", "model.width=16"]
    side = min(96, image_size(pictures))
    return [*steady, *_sized(side), "train.duration=5ep", f"model.freeze_layers={FROZEN}"]


def _sized(side: int) -> list[str]:
    return [f"data.image_size={side}", f"data.augment.crop_padding={side // 8}"]


# ---------------------------------------------------------------- runs


def _trained(config: RunConfig, seeds: Sequence[int], name: str) -> list[RunFolder]:
    """Finished runs of a method, one for each seed; those that are there already are kept.

    Raises:
        KeyboardInterrupt: one was interrupted.
        TrainingError: one failed.
    """
    from rtk.train.launch import TrainingError
    from rtk.train.seeds import train_seeds

    for one in (found := train_seeds(config, seeds, name)):
        if one.status == "interrupted":
            raise KeyboardInterrupt(one.signal or signal.SIGINT)
        if one.status == "failed":
            raise TrainingError(f"{one.run.name}: {one.reason}")
    return [one.run for one in found]


def _measured(run: RunFolder) -> dict[str, float]:
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.report.run_tables import write_run_tables
    from rtk.runs.results import read_result

    if not (run.evaluation / "metrics.json").exists():
        _say(f"{run.name}: evaluating")
        evaluate_run(run)
        write_run_tables(run)
    summary: dict[str, float] = read_result(run)["summary"]
    return summary


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
