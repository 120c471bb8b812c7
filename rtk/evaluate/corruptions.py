"""Covariate shift: accuracy and misclassification detection under 15 common corruptions x 5 severities.

The corruptions are those of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261), made on the
fly by the library imagecorruptions-imaug with ImageNet-C's settings, on the images as the model sees them.
CIFAR-C's settings are milder: figures at 32 x 32 pixels compare with each other, not with published ones.
Those come from CIFAR-C's own images, prepared (`rtk data prepare --source cifar_c`) and measured likewise.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rtk.config.errors import ConfigError
from rtk.data.decode.pipeline import Selection, decode_block
from rtk.evaluate.actors import LoadedModel, Predict
from rtk.evaluate.pool import Counted, Pool
from rtk.evaluate.shifted import measure_variants
from rtk.runtime.console import Progress
from rtk.scores import FittedScore

TYPES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
# More of CIFAR-C and ImageNet-C, by their authors for validation: no part of published means.
EXTRA_TYPES = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
SEVERITIES = (1, 2, 3, 4, 5)
CLEAN = ("none", 0)
SMALLEST_SIDE = 32  # pixels, of the library
# The library draws these with generators of its own; the others use NumPy's global one.
OWN_GENERATOR = ("impulse_noise", "glass_blur")
FILE = "corruptions.csv"


def check_corruptions(image_size: int) -> None:
    """Refuse what cannot be corrupted, before anything is predicted.

    Raises:
        ConfigError: the library is not installed, or the images are too small for it.
    """
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--corruptions: {error}; pip install 'reliability-toolkit[corruptions]' brings it"
        ) from None
    if image_size < SMALLEST_SIDE:
        raise ConfigError(f"--corruptions: got data.image_size {image_size}, wanted {SMALLEST_SIDE} or more")


def corrupt_image(image: np.ndarray, kind: str, severity: int, sample_id: int) -> np.ndarray:
    """A corrupted copy of an image; a function of its arguments alone.

    Args:
        image: (H, W, 3) uint8.
        kind: of `TYPES`.
        severity: 1..5.
        sample_id: stable id of the image: its noise does not depend on the data set's order or parts.
    """
    from imagecorruptions import corrupt

    place = TYPES.index(kind) * len(SEVERITIES) + severity
    seed = int(np.random.SeedSequence([place, sample_id]).generate_state(1)[0])
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        own = {"seed": seed} if kind in OWN_GENERATOR else {}
        corrupted: np.ndarray = corrupt(image, severity=severity, corruption_name=kind, **own)
    finally:
        np.random.set_state(state)
    return corrupted


def corruption_scores(
    pool: Pool,
    selection: Selection,
    states: Mapping[str, FittedScore],
    types: Sequence[str] = TYPES,
    progress: Progress | None = None,
    predict: Predict | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Measure a run on every corruption of a labelled set, by each of some scores.

    Args:
        pool: actors with the model of the run.
        selection: in-distribution images, those of the test set.
        states: fitted scores that tell right from wrong, by name.
        types: corruptions to apply.
        progress: called with the number of images predicted and their total.
        predict: what is made of images, a column for each of the scores that run the model; None: logits
            and features alone.

    Returns:
        By score a row for the clean images and one for each type and severity: `corruption`, `severity`,
        `images`, `accuracy`, `aurc`, `e_aurc`, `augrc` and, where both kinds occur, `auroc_errors` and
        `fpr95_errors`.

    Raises:
        BadImageError: an image cannot be decoded.
    """
    variants = [CLEAN, *((kind, severity) for kind in types for severity in SEVERITIES)]
    targets = selection.labels()
    corrupt = partial(_corrupt_block, variants=variants, ids=selection.sample_ids())
    blocks = pool.run_blocks({"test": selection}, PredictVariants(predict or Predict()), prepare=corrupt)
    done = Counted(progress, len(selection) * len(variants))
    return measure_variants(blocks, {f"{kind}/{level}": targets for kind, level in variants}, states, done)


def prepared_scores(
    pool: Pool,
    selections: Mapping[str, Selection],
    clean: Mapping[str, Mapping[str, Any]],
    states: Mapping[str, FittedScore],
    predict: Predict,
    progress: Progress | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Rows as those of `corruption_scores`, of sets that were corrupted by others.

    Args:
        pool: see there.
        selections: of `corrupted_selections`.
        clean: for each score `images` and metrics of the test images.
        states: see there.
        predict: see there.
        progress: see there.
    """
    done = Counted(progress, sum(map(len, selections.values())))
    labels = {name: selection.labels() for name, selection in selections.items()}
    rows = measure_variants(pool.run_blocks(selections, predict), labels, states, done)
    first = dict(zip(("corruption", "severity"), CLEAN, strict=True))
    return {score: [{**first, **clean[score]}, *own] for score, own in rows.items()}


@dataclass(frozen=True)
class PredictVariants:
    """Predicts blocks of several variants, each in a batch of its own."""

    predict: Predict

    def begin(self, loaded: LoadedModel) -> Callable[[pa.Table], pa.Table]:
        """As for one variant."""
        return partial(_predict_variants, self.predict.begin(loaded))


def _predict_variants(predict: Callable[[pa.Table], pa.Table], block: pa.Table) -> pa.Table:
    return pa.concat_tables(
        predict(block.filter(pc.equal(block["set"], name))) for name in pc.unique(block["set"])
    )


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over all types and severities: `accuracy`, `aurc` and, where every row has it, `auroc_errors`.

    CIFAR-C's four extra types do not count, as in the published means.
    """
    shifted = [row for row in rows if row["severity"]]
    shifted = [row for row in shifted if row["corruption"] not in EXTRA_TYPES] or shifted
    keys = [key for key in ("accuracy", "aurc", "auroc_errors") if all(key in row for row in shifted)]
    return {key: float(np.mean([row[key] for row in shifted])) for key in keys}


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write `corruptions.csv`."""
    path = folder / FILE
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def measured_with(result: Mapping[str, Any]) -> dict[str, str]:
    """What the rows say of how they were measured, from what `evaluate_run` returns: test images, confidence.

    Empty for an older evaluation, which does not say.
    """
    test = result.get("measured_on", {}).get("test")
    if test is None:
        return {}
    described = json.dumps([test["data"], test.get("labels")])
    return {"test": hashlib.sha256(described.encode()).hexdigest()[:16], "confidence": result["confidence"]}


def read_rows(
    folder: Path, step: int, measured: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Rows of `corruptions.csv` for one score, numbers as numbers.

    Args:
        folder: `evaluation` of a run.
        step: of the checkpoint that was measured; of another there are no rows.
        measured: of `measured_with`; rows of another test set or confidence are left out. Where it names no
            confidence, those of the first are taken.
    """
    path = folder / FILE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            {key: _number(key, text) for key, text in row.items() if text} for row in csv.DictReader(file)
        ]
    of_step = [row for row in rows if row.get("step") == step]
    wanted = {"confidence": next((row.get("confidence") for row in of_step), None)} | dict(measured)
    return [row for row in of_step if all(row.get(key, value) == value for key, value in wanted.items())]


def _number(key: str, text: str) -> Any:
    kinds: dict[str, Callable[[str], Any]] = {"severity": int, "images": int, "step": int}
    kinds |= dict.fromkeys(("corruption", "test", "confidence"), str)
    return kinds.get(key, float)(text)


def _corrupt_block(
    block: pa.Table, variants: Sequence[tuple[str, int]], ids: np.ndarray
) -> Iterator[pa.Table]:
    """Encoded images to decoded blocks, one for each variant; `ids` are those of all images, (rows,)."""
    decoded = decode_block(block)
    side, sample_ids = block["size"][0].as_py(), ids[block["row"].to_numpy()].tolist()
    if decoded["pixels"].null_count:
        yield decoded  # the predictor names the image and stops
        return
    joined = np.frombuffer(b"".join(decoded["pixels"].to_pylist()), np.uint8)
    images = joined.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
    for kind, severity in variants:
        pixels = [
            image if (kind, severity) == CLEAN else corrupt_image(image, kind, severity, sample_id)
            for image, sample_id in zip(images, sample_ids, strict=True)
        ]
        encoded = pa.array([picture.transpose(2, 0, 1).tobytes() for picture in pixels], pa.binary())
        changed = decoded.set_column(decoded.column_names.index("pixels"), "pixels", encoded)
        names = pa.array([f"{kind}/{severity}"] * len(block))
        yield changed.set_column(changed.column_names.index("set"), "set", names)
