"""`rtk data`: prepare image sets and look at them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rtk.commands import data_check, data_split
from rtk.commands.output import print_json, print_some, say
from rtk.commands.parsers import Options, Parsers, add_command, add_json, add_plugin, positive
from rtk.runtime.console import complain

if TYPE_CHECKING:
    from rtk.data.prepare.records import Source


def add(commands: Parsers) -> None:
    """The parser of `rtk data`."""
    data = commands.add_parser("data", help="prepare and look at image sets")
    actions = data.add_subparsers(dest="data_command", metavar="ACTION", required=True)
    _add_prepare(actions)
    _add_inspect(actions)
    data_check.add(actions)
    _add_views(actions)


def _add_prepare(actions: Parsers) -> None:
    parser = add_command(
        actions,
        "prepare",
        run_prepare,
        "turn image folders, CIFAR archives, MNIST idx files or Parquet into rtk's Parquet",
        """rtk data prepare photos/ --out data/photos
        rtk data prepare cifar-100-python.tar.gz --out data/cifar100
        rtk data prepare photos/ --out data/photos --skip-bad
        rtk data prepare photos/ --out data/photos --split-folders 2023,2024   a split each; others left out
        rtk data prepare species/ --out data/birds --classes-from parent       species/ORDER/BIRD/*.jpg
        rtk data prepare hub/train.parquet --out data/hub --classes-from fine_label
        rtk data prepare --source openood benchmark_imglist/cifar100/*.txt images_classic/ --out data/openood
        rtk data prepare photos/ --out data/photos --split 0.7/0.15/0.15 --seed 1
        rtk data prepare scans/ --out data/scans --split 0.8/0/0.2 --group-pattern 'patient[0-9]+'""",
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, archive or Parquet; image lists too"
    )
    parser.add_argument("--source", dest="kind", metavar="KIND", help="what to take it for, such as openood")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--skip-bad", action="store_true", help="leave broken images out instead of failing")
    parser.add_argument("--image-size", type=positive, metavar="PX", help="resize and crop to this side")
    add_layout(parser)
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        default="apply",
        help="what --image-size does about orientations that phones note beside pictures (default: apply)",
    )
    data_split.add_options(parser)
    add_plugin(parser, "data sources")
    add_json(parser)


def add_layout(parser: argparse._ActionsContainer) -> None:
    """The options that decide how folders are understood."""
    parser.add_argument(
        "--split-folders",
        type=lambda text: () if text == "none" else tuple(text.split(",")),
        metavar="NAME,...",
        help="folders that are splits, others beside them being left out; none: all are classes "
        "(default: train, val, test and their usual spellings)",
    )
    parser.add_argument(
        "--classes-from",
        metavar="WHAT",
        help="the class is the top folder of an image, its parent folder, or none; for Parquet: a column; "
        "for image lists: prepared data with the class names",
    )


def _add_inspect(actions: Parsers) -> None:
    parser = add_command(
        actions,
        "inspect",
        run_inspect,
        "show counts, sizes, class balance and a contact sheet of an image set",
        """rtk data inspect data/photos/train.parquet
        rtk data inspect data/photos --sheet sheet.png""",
    )
    parser.add_argument("path", help="Parquet file or folder")
    parser.add_argument(
        "--sheet", default="contact_sheet.png", metavar="FILE", help="default: contact_sheet.png"
    )
    parser.add_argument("--sample", type=positive, metavar="N", help="look at N images only")
    add_json(parser)


def _add_views(actions: Parsers) -> None:
    parser = add_command(
        actions,
        "views",
        run_views,
        "draw a contact sheet of the views that a recipe trains on",
        """rtk data views digits_demo
        rtk data views my_recipe.yaml data.augment.crop=resized --out sheet.png""",
    )
    parser.add_argument("recipe", help="a shipped recipe (rtk recipes ls) or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="config values over the recipe's"
    )
    parser.add_argument("--out", default="views.png", metavar="FILE", help="default: views.png")
    parser.add_argument("--images", type=positive, default=8, metavar="N", help="columns (default: 8)")
    add_json(parser)


def run_prepare(options: Options) -> int:
    """`rtk data prepare`."""
    from rtk.config.plugin_files import find_plugins, load_plugins
    from rtk.data.prepare.prepare import BadImagesError, prepare
    from rtk.runtime.console import counted, progress_bar

    load_plugins(find_plugins(options.plugin, Path()))
    source, lists = _sources(options)
    try:
        with progress_bar("checking images") as progress:
            done = prepare(
                source,
                Path(options.out),
                kind=options.kind,
                image_lists=lists,
                skip_bad=options.skip_bad,
                image_size=options.image_size,
                split_folders=options.split_folders,
                classes_from=options.classes_from,
                on_open=None if options.json else print_layout,
                exif=options.exif,
                split=data_split.options(options),
                progress=progress,
            )
    except BadImagesError as error:
        complain(f"rtk: error: {error}\nnothing was written; --skip-bad leaves them out")
        return 1
    if options.json:
        print_json(done.manifest())
        return 0
    classes = counted(len(done.classes), "class", "classes")
    say(f"{counted(done.rows, 'image')}, {classes} -> {done.out} (from {done.kind})")
    for summary in done.files:
        say(f"  {summary.file}: {counted(summary.rows, 'image')}")
    print_turned(done.turned)
    if done.split is not None:
        data_split.show(done, done.split)
    print_some("skipped, could not be read", [f"{bad.origin}: {bad.reason}" for bad in done.skipped])
    print_some("ignored, no image of a class", list(done.ignored))
    return 0


def _sources(options: Options) -> tuple[Path, list[Path]]:
    """The source, and with `--source openood` what stands beside it: the lists, and further folders.

    Raises:
        ConfigError: there are several where one is wanted, or lists without a folder.
        ValueError: there is no such kind of source.
    """
    from rtk.config.errors import ConfigError
    from rtk.data.prepare.sources import named_kind

    paths = [Path(path) for path in options.sources]
    if options.kind is not None:
        named_kind(options.kind, paths[0])
    if options.kind != "openood":
        if len(paths) > 1:
            wanted = "one; image lists and the folder of their images go with --source openood"
            raise ConfigError(f"rtk data prepare: got {len(paths)} sources, wanted {wanted}")
        return paths[0], []
    folders = [path for path in paths if path.is_dir()]
    if not folders:
        raise ConfigError(
            f"--source openood: got no folder ({paths[-1]} is none), wanted LIST.txt ... FOLDER"
        )
    return folders[0], [path for path in paths if path is not folders[0]]


def print_layout(source: Source) -> None:
    """Show how a source's folders were understood."""
    if source.layout:
        say("\n".join([f"understood as {source.kind}:", *source.layout]))


def run_inspect(options: Options) -> int:
    """`rtk data inspect`."""
    from rtk.data.prepare.inspect import contact_sheet, inspect_dataset
    from rtk.data.sets.dataset import open_dataset

    found = inspect_dataset(options.path, sample=options.sample)
    contact_sheet(open_dataset(options.path, need_classes=False)).save(options.sheet)
    if options.json:
        print_json({**asdict(found), "contact_sheet": options.sheet})
        return 0
    say(f"{found.path}: {found.rows} images, {len(found.classes)} classes, {found.files} files")
    for name, value in asdict(found.balance).items():
        say(f"  images per class, {name}: {value}")
    for name in ("sizes", "modes", "encodings"):
        say(f"  {name}: " + ", ".join(f"{kind} ({count})" for kind, count in getattr(found, name).items()))
    say(f"  encoded bytes: {found.bytes}, of {found.looked_at} images looked at")
    print_turned(found.turned)
    say(f"  duplicates: {found.duplicates} ({found.conflicts} with another label)")
    say(f"  unreadable: {found.unreadable}")
    say(f"contact sheet: {options.sheet}")
    return 0


def print_turned(images: int) -> None:
    """Say how many pictures of a set are stored turned."""
    from rtk.runtime.console import counted

    if images:
        say(f"  turned or mirrored by EXIF: {counted(images, 'image')} (data.exif=apply rights them)")


def run_views(options: Options) -> int:
    """`rtk data views`."""
    from rtk.config.errors import ConfigError
    from rtk.config.load import load_with_origins, named_order
    from rtk.report.view_sheet import view_sheet

    config = load_with_origins(options.recipe, options.overrides).config
    try:
        order = named_order(options.recipe, "objective")
        view_sheet(config, options.images, order=order).save(options.out)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {options.out} ({error.strerror or error})") from None
    if options.json:
        print_json({"views": options.out})
    else:
        say(f"views: {options.out}")
    return 0
