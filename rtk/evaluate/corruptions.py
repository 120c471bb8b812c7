"""Covariate shift: accuracy and misclassification detection under 15 common corruptions x 5 severities.

The corruptions are those of ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261), made on the
fly by the library imagecorruptions-imaug with ImageNet-C's settings, on the images as the model sees them.
CIFAR-C's settings are milder: figures at 32 x 32 pixels compare with each other, not with published ones.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rtk.config.errors import ConfigError
from rtk.data.decode.pipeline import Selection, decode_block
from rtk.evaluate.actors import LoadedModel, Predict
from rtk.evaluate.columns import as_matrix
from rtk.evaluate.measure import error_metrics
from rtk.evaluate.pool import Counted, Pool
from rtk.runtime.console import Progress
from rtk.scores import FittedScore, Predictions, apply_score
from rtk.scores.selection import image_scores

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
SEVERITIES = (1, 2, 3, 4, 5)
CLEAN = ("none", 0)
SMALLEST_SIDE = 32  # pixels, of the library
# The library draws these with generators of its own; the others use NumPy's global one.
OWN_GENERATOR = ("impulse_noise", "glass_blur")
FILE = "corruptions.csv"


def check_corruptions(image_size: int, confidence: str) -> None:
    """Refuse what cannot be corrupted, before anything is predicted.

    Raises:
        ConfigError: the library is not installed, the images are too small for it, or the confidence runs the
            model again.
    """
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--corruptions: {error}; pip install 'reliability-toolkit[corruptions]' brings it"
        ) from None
    if image_scores([confidence]):
        raise ConfigError(
            f"--corruptions: got evaluate.confidence {confidence}, wanted a score of predictions"
        )
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


def corruption_metrics(
    pool: Pool,
    selection: Selection,
    confidence: tuple[str, FittedScore],
    types: Sequence[str] = TYPES,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure a run on every corruption of a labelled set.

    Args:
        pool: actors with the model of the run.
        selection: in-distribution images, those of the test set.
        confidence: name and fitted state of the score that tells right from wrong.
        types: corruptions to apply.
        progress: called with the number of images predicted and their total.

    Returns:
        A row for the clean images and one for each type and severity: `corruption`, `severity`, `images`,
        `accuracy`, `aurc`, `e_aurc`, `augrc` and, where both kinds occur, `auroc_errors` and `fpr95_errors`.

    Raises:
        BadImageError: an image cannot be decoded.
    """
    variants = [CLEAN, *((kind, severity) for kind in types for severity in SEVERITIES)]
    targets = selection.labels()
    sure = {f"{kind}/{severity}": np.empty(len(selection)) for kind, severity in variants}
    correct = {name: np.empty(len(selection), bool) for name in sure}
    done = Counted(progress, len(selection) * len(variants))
    corrupt = partial(_corrupt_block, variants=variants, ids=selection.sample_ids())
    for block in pool.run_blocks({"test": selection}, PredictVariants(), prepare=corrupt):
        _place(block, targets, confidence, sure, correct)
        done.add(len(block))
    return [
        {"corruption": kind, "severity": severity, "images": len(selection)}
        | error_metrics(sure[f"{kind}/{severity}"], correct[f"{kind}/{severity}"])
        for kind, severity in variants
    ]


class PredictVariants:
    """Predicts blocks of several variants, each in a batch of its own."""

    def begin(self, loaded: LoadedModel) -> Callable[[pa.Table], pa.Table]:
        """As for one variant."""
        return partial(_predict_variants, Predict().begin(loaded))


def _predict_variants(predict: Callable[[pa.Table], pa.Table], block: pa.Table) -> pa.Table:
    return pa.concat_tables(
        predict(block.filter(pc.equal(block["set"], name))) for name in pc.unique(block["set"])
    )


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over all types and severities: `accuracy`, `aurc` and, where every row has it, `auroc_errors`."""
    shifted = [row for row in rows if row["severity"]]
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
    """Rows of `corruptions.csv`, numbers as numbers.

    Args:
        folder: `evaluation` of a run.
        step: of the checkpoint that was measured; of another there are no rows.
        measured: of `measured_with`; rows of another test set or confidence are left out.
    """
    path = folder / FILE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            {key: _number(key, text) for key, text in row.items() if text} for row in csv.DictReader(file)
        ]
    of_step = [row for row in rows if row.get("step") == step]
    return [row for row in of_step if all(row.get(key, value) == value for key, value in measured.items())]


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


def _place(
    block: pa.Table,
    targets: np.ndarray,
    confidence: tuple[str, FittedScore],
    sure: dict[str, np.ndarray],
    correct: dict[str, np.ndarray],
) -> None:
    """Score a predicted block and put the outcome where its set and row numbers say."""
    rows, names = block["row"].to_numpy(), np.array(block["set"].to_pylist())
    logits, features = (
        torch.from_numpy(as_matrix(block[name], len(rows)).copy()) for name in ("logits", "features")
    )
    name, state = confidence
    scores = apply_score(name, state, Predictions(logits, features, torch.from_numpy(targets[rows]))).numpy()
    right = logits.argmax(1).numpy() == targets[rows]
    for variant in np.unique(names):
        chosen = names == variant
        sure[variant][rows[chosen]] = scores[chosen]
        correct[variant][rows[chosen]] = right[chosen]
