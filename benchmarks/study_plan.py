"""What `study.py` runs: its parts, methods, search spaces, data and sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from rtk.config.load import load_config
from rtk.config.schema import RunConfig
from rtk.config.search_space import SearchSpace
from rtk.data.prepare.choose import choose_images
from rtk.data.prepare.prepare import prepare
from rtk.data.prepare.split import SplitOptions
from rtk.data.sets.dataset import open_dataset
from rtk.scores.table import recommended_scores

SEEDS, TRIALS = 5, 6
OBJECTIVE = "val/aurc"  # of validation images alone; no OOD image is seen before the tests
LEARNING_RATES = {"pretrained": (0.002, 0.05), "from nothing": (0.01, 0.2)}
PLUS = "resnet18_cifar100_sure_plus"
# Hundreds of steps in place of the published 78,000: a smaller rho, and an average that follows.
SHARP, AVERAGE = ["sharpness.rho=0.05"], ["averaging.decay=0.95", "averaging.ramp=20"]
RAT = ["objective.rat.weight=1", "objective.rat.eps=0.002"]


@dataclass(frozen=True)
class Method:
    """A row of the tables: recipe, what is changed in it, and what is searched beside the learning rate."""

    recipe: str
    changes: Sequence[str] = ()
    searched: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "CE": Method("resnet18_cifar100_ce", (), {"optimizer.weight_decay": {"loguniform": [1e-5, 1e-2]}}),
    "RegMixup": Method(
        "resnet18_cifar100_regmixup", (), {"objective.regmixup.weight": {"uniform": [0.2, 2.0]}}
    ),
    "SURE": Method("resnet18_cifar100_sure", SHARP, {"objective.crl.weight": {"uniform": [0.2, 2.0]}}),
    "SURE+": Method(PLUS, [*SHARP, *AVERAGE], {"sharpness.rho": {"loguniform": [0.01, 0.2]}}),
    "RAT": Method("resnet18_cifar100_ce", RAT, {"objective.rat.eps": {"loguniform": [0.0003, 0.02]}}),
    "RAT + SURE+": Method(
        PLUS, [*SHARP, *AVERAGE, *RAT], {"objective.rat.eps": {"loguniform": [0.0003, 0.02]}}
    ),
}


def word(method: str) -> str:
    """A method's name as part of a folder's."""
    return method.lower().replace("+", "_plus").replace(" ", "")


@dataclass(frozen=True)
class Part:
    """A network on a data set.

    Attributes:
        title: of its table.
        settings: overrides that all methods share.
        epochs: of a run; a trial of the sweep has half of them.
        held_out: classes of the source that are near-OOD.
        kept: number of other classes to train on; None: all.
        images: most training images.
        sources: files below the data folder: `train`, and `test` where the set has one; else train is cut.
        near: further near-OOD sets.
        far: far-OOD sets.
        rates: kind of learning rates.
        cut: what was made smaller than a full study would have it.
    """

    title: str
    settings: Sequence[str]
    epochs: int
    held_out: Sequence[str]
    images: int
    sources: Mapping[str, str]
    near: Mapping[str, str]
    far: Mapping[str, str]
    rates: str
    cut: str
    kept: int | None = None


LITE0 = [
    *("model.name=efficientnet_lite0", "model.width=null", "model.freeze_layers=6", "model.head_weights=new"),
    *("model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]", "data.image_size=96"),
    "data.augment.crop_padding=12",
]
FAR = {"textures": "dtd10/all_32", "street_chars": "street_chars/train"}
PARTS: dict[str, Part] = {
    "lite0-flowers": Part(
        "EfficientNet-Lite0, ImageNet weights, on flowers5 (tulips held out)",
        LITE0,
        5,
        ["tulip"],
        1000,
        {"train": "flowers5/train", "test": "flowers5/test"},
        {},
        {**FAR, "scenes": "intel_scenes/test"},
        "pretrained",
        "96 px in place of 224, 1,000 training images, 5 epochs, the first 6 of 17 layers frozen",
    ),
    "lite0-scenes": Part(
        "EfficientNet-Lite0, ImageNet weights, on intel_scenes (glaciers held out)",
        LITE0,
        12,
        ["glacier"],
        1000,
        {"train": "intel_scenes/test"},
        {},
        {**FAR, "flowers": "flowers5/test"},
        "pretrained",
        "375 images to train on, 125 to test, 25 near-OOD; 96 px, 12 epochs, the first 6 of 17 layers frozen",
    ),
    "resnet18-cifar20": Part(
        "ResNet-18 from nothing on 20 classes of CIFAR-100 (the other 80 held out)",
        ["model.width=16"],
        20,
        [],
        2000,
        {"train": "cifar100/train_10k", "test": "cifar100/test"},
        {"cifar10": "cifar10/test"},
        {**FAR, "mnist": "mnist/test"},
        "from nothing",
        "20 classes of 100 images, width 16 in place of 64, 20 epochs in place of 200",
        kept=20,
    ),
}
MOST_TEST = 600  # images of a test set, in- or out-of-distribution
LEFT_OUT = (
    "adascale_a"  # of the recommended scores: it moves every image's pixels, two thirds of an evaluation
)
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.2  # of a set without a test; of what is trained on


def prepare_part(part: Part, data: Path, folder: Path) -> Path:
    """The folder of a part's sets, cut once: a second process waits until the first has cut all of them.

    Args:
        part: what to cut.
        data: folder of the prepared sets that it is cut from.
        folder: of the part's own; `done` in it says that it is whole, else it is cut anew.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "done").exists():
            cut_part(part, data, folder)
            (folder / "done").touch()
    return folder


def cut_part(part: Part, data: Path, folder: Path) -> None:
    """Write `train` and `test`, and each OOD set (`near`, `near_train`, ...) as `NAME/NAME`, cut to size."""
    files = {role: data / f"{path}.parquet" for role, path in part.sources.items()}
    if "test" not in files:
        cut = cut_in_two(files["train"], folder)
        files = {role: cut / f"{role}.parquet" for role in ("train", "test")}
    train, test = open_dataset(files["train"]), open_dataset(files["test"])
    kept = [name for name in train.classes if name not in part.held_out][: part.kept]
    others = [name for name in train.classes if name not in kept]
    choose_images(train, kept, folder, "train", part.images)
    choose_images(test, kept, folder, "test", MOST_TEST)
    for source, name in ((test, "near"), (train, "near_train")):  # nothing is trained on either
        choose_images(source, others, folder / name, name, MOST_TEST // 2)
    for name, path in {**part.near, **part.far}.items():
        whole = open_dataset(data / f"{path}.parquet")
        choose_images(whole, whole.classes, folder / name, name, MOST_TEST)


def cut_in_two(source: Path, folder: Path) -> Path:
    """Cut a set without a test into `train` and `test`, near-duplicates on one side."""
    out = folder.parent / f"{folder.name}-cut"
    if not out.exists():
        prepare(source, out, split=SplitOptions((1 - TEST_SHARE, 0, TEST_SHARE)))
    return out


def space_of(part: Part, method: Method) -> SearchSpace:
    """The search of a method: the learning rate and one strength of its own, six trials of random values."""
    rate = {"loguniform": list(LEARNING_RATES[part.rates])}
    return SearchSpace.model_validate(
        {
            "objectives": {OBJECTIVE: "min"},
            "trials": TRIALS,
            "concurrent": 1,
            "scheduler": {"name": "none"},
            "sampler": {"name": "random", "seed": 0},
            "resources": {"cpu": 2},
            "space": {"optimizer.lr": rate, **method.searched},
        }
    )


def run_config(
    name: str, method: str, seed: int, place: Path, options: Any, values: Mapping[str, Any] | None = None
) -> RunConfig:
    """The config of a run, or (without `values`) of the trials of a sweep.

    Args:
        name: of the part.
        method: key of `METHODS`.
        seed: of the run.
        place: folder of the part's sets.
        options: `output`, `weights`, `data`, `workers`, `threads`, and `quick` for a try.
        values: of the searched keys.
    """
    part, row = PARTS[name], METHODS[method]
    ood = {
        group: {each: (place / each / f"{each}.parquet").as_posix() for each in sets}
        for group, sets in (("near", ["near", "near_train", *part.near]), ("far", part.far))
    }
    epochs = 1 if options.quick else part.epochs if values is not None else max(1, part.epochs // 2)
    changes = [
        *part.settings,
        *(f"data.train={place / 'train.parquet'}", f"data.test={place / 'test.parquet'}"),
        *(
            "data.validation_ood=null",
            f"data.validation_fraction={VALIDATION_SHARE}",
            "data.validation_seed=0",
        ),
        *(f"data.{group}_ood={json.dumps(sets)}" for group, sets in ood.items()),
        *(f"train.duration={epochs}ep", "train.batch_size=32", f"train.workers={options.workers}"),
        f"train.threads={json.dumps(options.threads)}",
        *(f"seed={seed}", f"output={json.dumps(str(options.output))}"),
        *(row.changes),
    ]
    if row.recipe.startswith(PLUS):
        changes.append(f"data.mixing={Path(options.data) / 'mixing/all.parquet'}")
    if part.rates == "pretrained":
        changes.append(f"model.weights={json.dumps(str(options.weights))}")
    changes = [change for change in changes if change.partition("=")[0] not in (values or {})]
    changes += [f"{key}={value}" for key, value in (values or {}).items()]
    config = load_config(row.recipe, changes)
    scores = [score for score in recommended_scores(config.model.name) if score != LEFT_OUT]
    changes.append(f"evaluate.scores={json.dumps(scores)}")
    changes += stochastic_average(config, epochs) if config.averaging.kind == "swa" else []
    return load_config(row.recipe, changes)


def stochastic_average(config: RunConfig, epochs: int) -> list[str]:
    """SURE's average of a short run: over its last two fifths, at a constant tenth of the learning rate."""
    start = max(0, round(0.6 * epochs))
    return [
        f"averaging.start={start}ep",
        "schedule.swa_anneal=1ep",
        f"schedule.swa_lr={config.optimizer.lr / 10}",
    ]
