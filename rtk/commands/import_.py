"""`rtk import`: a run of weights that others have trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json

if TYPE_CHECKING:
    from rtk.train.imported import Imported


def add(commands: Parsers) -> None:
    """The parser of `rtk import`."""
    parser = add_command(
        commands,
        "import",
        run,
        "make a run of weights that others have trained, to evaluate, export or train on",
        """rtk import efficientnet_lite0.safetensors --recipe efficientnet_lite0_imagenet1k --out runs/lite0
        rtk import best.ckpt --recipe resnet18_cifar100_ce --classes cifar100.json
        rtk import resnet50.pth --recipe my_resnet50.yaml data.train=data/imagenet/fit.parquet""",
    )
    parser.add_argument(
        "weights", help="PyTorch or safetensors file of any project that rtk knows, or a folder"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="config values over the recipe's"
    )
    parser.add_argument(
        "--recipe",
        required=True,
        help="which network it is: a shipped recipe (rtk recipes ls) or a YAML file",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the run's folder (default: in the recipe's output, named by the time)"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="JSON with the class names in the order of the logits (default: those of data.train, if there)",
    )
    add_json(parser)


def run(options: Options) -> int:
    """`rtk import`."""
    from rtk.config.load import load_config
    from rtk.config.overrides import override_text
    from rtk.train.imported import import_weights

    weights = Path(options.weights)
    overrides = [override_text("model.weights", options.weights), *options.overrides]
    name = None
    if options.out:
        parent, slash, name = options.out.rstrip("/").rpartition("/")
        overrides.append(override_text("output", parent or slash or "."))
    config = load_config(options.recipe, overrides)
    classes = Path(options.classes) if options.classes else None
    imported = import_weights(weights, config, name, classes)
    if options.json:
        print_json(_record(imported))
    else:
        print("\n".join(_lines(imported)))
    return 0


def _record(imported: Imported) -> dict[str, Any]:
    return {
        "run": imported.run.name,
        "path": str(imported.run.path),
        "origin": asdict(imported.origin),
        "classes": imported.num_classes,
        "classes_known": bool(imported.classes),
        "parameters": imported.parameters,
        "doubt": imported.doubt,
    }


def _lines(imported: Imported) -> list[str]:
    origin, count = imported.origin, imported.num_classes
    lines = [
        f"imported: {imported.run.place}",
        f"weights: {imported.parameters:,} of {count:,} classes, SHA-256 {origin.sha256}",
        f"names: of {origin.names}" + (f", in {origin.place}" if origin.place else ""),
    ]
    if origin.ignored:
        lines.append(f"ignored in the file: {', '.join(origin.ignored)}")
    if imported.doubt:
        lines.append(f"note: {imported.doubt}")
    if imported.classes:
        lines.append(f"class names: {imported.classes[0]}, ..., {imported.classes[-1]}, in this order")
    else:
        lines.append(
            "class names: not known; an evaluation takes those of data.train, in their order (or --classes)"
        )
    return [*lines, f"next: rtk evaluate {imported.run.place}"]
