"""`rtk init`: a recipe for pictures of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands.data import add_layout, print_layout
from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json

if TYPE_CHECKING:
    from rtk.config.starter import Pictures, Pretrained
    from rtk.data.prepare.inspect import InspectReport

LOOKED_AT = 1000  # pictures whose size is read
SHARES = "0.7/0.15/0.15"  # of train, validation and test, where pictures are not split
# Names that prepared files of a role have; the first that is there is taken.
ROLES = {
    "train": ("train", "training", "all"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def add(commands: Parsers) -> None:
    """The parser of `rtk init`."""
    parser = add_command(
        commands,
        "init",
        init,
        "write a commented recipe for a folder of pictures",
        """rtk init photos/                          prepares and splits into data/photos, writes photos.yaml
        rtk init data/photos --out mine.yaml      of what rtk data prepare has made
        rtk init photos/ --weights dinov3_vits16_pretrain_lvd1689m-08c60483.pth""",
    )
    parser.add_argument(
        "pictures", help="folder of images, or anything else that rtk data prepare takes or made"
    )
    parser.add_argument("--out", metavar="FILE", help="recipe to write (default: NAME.yaml)")
    parser.add_argument("--data", metavar="DIR", help="where images are prepared to (default: data/NAME)")
    parser.add_argument("--skip-bad", action="store_true", help="leave broken images out instead of failing")
    add_layout(parser)
    parser.add_argument(
        "--split",
        metavar="A/B/C",
        help=f"shares of train, validation, test (default: {SHARES} where there are no split folders)",
    )
    parser.add_argument("--weights", metavar="FILE", help="pretrained weights to start from")
    parser.add_argument(
        "--model", metavar="NAME", help="backbone of the weights (default: the one that they fit)"
    )
    add_json(parser)


def init(options: Options) -> int:
    """`rtk init`."""
    from rtk.config.errors import ConfigError
    from rtk.config.load import NOT_IN_NAMES

    source = Path(options.pictures)
    name = NOT_IN_NAMES.sub("_", source.resolve().stem)
    out = Path(options.out or f"{name}.yaml")
    if out.exists():
        raise ConfigError(f"--out: {out} exists already")
    if options.model and not options.weights:
        raise ConfigError("--model: wanted --weights FILE with it")
    pretrained = find_pretrained(options.weights, options.model) if options.weights else None
    prepared = prepare_pictures(source, Path(options.data or Path("data", name)), options)
    found = read_pictures(prepared, pretrained)
    _write(out, found)
    if options.json:
        print_json({"recipe": str(out), "classes": list(found.classes), **found.sets})
        return 0
    for role, path in found.sets.items():
        print(f"{role}: {path}")
    if "test" not in found.sets:
        print("test: none yet; rtk evaluate needs one (data.test in the recipe, or --test PATH)")
    print(f"recipe: {out}, to read and change\nnext: rtk train {out}")
    return 0


def prepare_pictures(source: Path, out: Path, options: Options) -> Path:
    """The folder or file of prepared sets: the source itself, or what is made of it."""
    from rtk.data.prepare.prepare import prepare
    from rtk.data.prepare.sources import open_source
    from rtk.data.prepare.split import SplitOptions, parse_fractions
    from rtk.data.sets.dataset import open_dataset
    from rtk.runtime.console import progress_bar

    with suppress(ValueError):
        open_dataset(source)
        return source
    layout = {"split_folders": options.split_folders, "classes_from": options.classes_from}
    whole = len(open_source(source, **layout).splits) == 1
    shares = options.split or (SHARES if whole else None)
    with progress_bar("checking images") as progress:
        return prepare(
            source,
            out,
            skip_bad=options.skip_bad,
            **layout,
            split=SplitOptions(parse_fractions(shares)) if shares else None,
            on_open=None if options.json else print_layout,
            progress=progress,
        ).out


def read_pictures(prepared: Path, pretrained: Pretrained | None) -> Pictures:
    """What a recipe has to know of prepared sets.

    Raises:
        ConfigError: none of them is one to train on.
    """
    from rtk.config.errors import ConfigError
    from rtk.config.starter import Pictures
    from rtk.data.prepare.inspect import inspect_dataset

    sets = {"train": prepared} if prepared.suffix == ".parquet" else dict(find_roles(prepared))
    if "train" not in sets:
        there = ", ".join(sorted(path.name for path in prepared.glob("*.parquet")))
        raise ConfigError(
            f"pictures: {prepared} holds {there}, wanted train.parquet or all.parquet among them"
        )
    report = inspect_dataset(sets["train"], sample=LOOKED_AT)
    if report.width is None or report.height is None:
        raise ConfigError(f"pictures: none of {report.looked_at} images of {sets['train']} can be read")
    paths = {role: path.as_posix() for role, path in sets.items()}
    return Pictures(
        report.classes,
        paths,
        report.rows,
        report.width,
        report.height,
        _usual_side(report),
        report.turned / report.looked_at,
        pretrained,
    )


def find_roles(folder: Path) -> Iterator[tuple[str, Path]]:
    """Role and path of the prepared sets of a folder."""
    for role, names in ROLES.items():
        for name in names:
            if (path := folder / f"{name}.parquet").exists():
                yield role, path
                break


def _usual_side(report: InspectReport) -> int:
    """Median of the shorter side in pixels, among the most common sizes."""
    sides = sorted(
        side for size, count in report.sizes.items() for side in [min(map(int, size.split("x")))] * count
    )
    return sides[len(sides) // 2]


def find_pretrained(weights: str, model: str | None) -> Pretrained:
    """The weights with the backbone that they fit.

    Raises:
        ConfigError: they fit none that rtk knows by name.
    """
    from rtk.config.errors import ConfigError
    from rtk.config.starter import Pretrained
    from rtk.models.backbones import BACKBONES
    from rtk.train.initial import open_source

    own = _model_of_rtk(Path(weights))
    if own is not None:
        return Pretrained(weights, own)
    found = open_source(weights)
    reasons = {}
    for name in [model] if model else BACKBONES:
        try:
            return Pretrained(weights, _fitting(name, found, weights))
        except ValueError as error:
            reasons[name] = error
    if model:
        raise ConfigError(f"--weights: {reasons[model]}")
    raise ConfigError(
        f"--weights: {weights} fits none of {', '.join(BACKBONES)}; --model timm/NAME names its backbone"
    )


def _model_of_rtk(folder: Path) -> dict[str, object] | None:
    """Values of `model` of a run, or of what `rtk export` wrote; None for anything else."""
    from rtk.deploy.description import DESCRIPTION
    from rtk.runs.folder import RunFolder

    if (folder / "config.yaml").is_file():
        values = RunFolder(folder).config().model.model_dump(mode="json")
    elif (folder / DESCRIPTION).is_file():
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["model"]
    else:
        return None
    return {key: values[key] for key in ("name", "width", "pool", "mean", "std")}


def _fitting(name: str, weights: Any, origin: str) -> dict[str, object]:
    """Values of `model` for a backbone, whose tensors all are among the weights.

    Raises:
        ValueError: there is no such backbone, or the weights do not fit.
    """

    from rtk.config.model import ModelConfig
    from rtk.models import build_model
    from rtk.models.backbones import BACKBONES
    from rtk.models.shapes_only import shapes_only
    from rtk.models.weights import fitting_weights

    values: dict[str, object] = {"name": name}
    if name in BACKBONES and not BACKBONES[name].timm:
        stem = next((one for key, one in weights.items() if key.endswith("conv1.weight")), None)
        values |= {"width": stem.shape[0]} if stem is not None else {}
    else:
        values |= _normalisation(name)
    with shapes_only():
        model = build_model(ModelConfig.model_validate(values), 2, 224)
    fitting_weights(model, weights, origin, new_head=True)
    return values


def _normalisation(name: str) -> dict[str, object]:
    """Mean and standard deviation that timm notes of a backbone's own weights, or else ImageNet's."""
    import timm

    from rtk.models.backbones import timm_name

    noted = timm.get_pretrained_cfg(timm_name(name))
    mean, std = (noted.mean, noted.std) if noted else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return {"mean": list(mean), "std": list(std)}


def _write(out: Path, pictures: Pictures) -> None:
    """Check the recipe, then write it.

    Raises:
        ConfigError: it cannot be written.
    """
    from rtk.config.errors import ConfigError
    from rtk.config.load import build_config
    from rtk.config.starter import starter_recipe
    from rtk.config.yaml_files import parse_yaml
    from rtk.runs.atomic import write_text

    text = starter_recipe(pictures, str(out))
    build_config(parse_yaml(text))
    try:
        write_text(out, text)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out} ({error.strerror or error})") from None
