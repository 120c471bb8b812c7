"""A trained model with all that its use takes, in one folder: what `rtk export` writes, `rtk predict` reads.

The folder holds `model.json` (architecture, classes, preprocessing, scores, decision rule),
`weights.safetensors` and `scores.safetensors` (the fitted scores). Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtk import __version__
from rtk.config.ensemble import EnsembleConfig
from rtk.config.errors import ConfigError
from rtk.config.model import ModelConfig
from rtk.config.plugin_files import PluginFile, is_loaded, load_plugins
from rtk.data.image import BadImageError, decode_rgb
from rtk.data.views.augment import to_float
from rtk.deploy.description import DESCRIPTION, FORMAT, WEIGHTS, build_described, read_description
from rtk.metrics.prediction_sets import prediction_sets
from rtk.models import Classifier
from rtk.models.precision import is_faster_in_bf16
from rtk.runs.atomic import write_tensors
from rtk.scores import FittedScore, Predictions, apply_score
from rtk.scores.decision import LIKELY_WRONG, DecisionRule
from rtk.scores.storage import load_fitted, save_fitted

BATCH = 64  # images per forward pass
SCORES = "scores.safetensors"  # beside the description and the weights


@dataclass(frozen=True)
class Preprocessing:
    """What `rtk.data.image.decode_rgb` is told of every image, as in the evaluation."""

    image_size: int
    crop_share: float = 1.0
    interpolation: str = "bilinear"
    exif: str = "apply"
    jpeg: str = "full"

    def __call__(self, encoded: bytes) -> np.ndarray:
        """Pixels uint8 (H, W, 3)."""
        return decode_rgb(encoded, self.image_size, self.crop_share, self.interpolation, self.exif, self.jpeg)


@dataclass(frozen=True)
class PackagedModel:
    """A classifier that says of every image whether to trust it.

    Attributes:
        model: in evaluation mode.
        config: of the model.
        classes: names, in the order of the logits.
        preprocessing: of its images.
        bf16: predict under bf16 autocast where that is faster.
        rule: the scores to decide by, and their thresholds.
        scores: fitted, by name.
        origin: run and step that it comes from.
        plugins: SHA-256, by name, of the user's files that register its scores or backbone.
        ensemble: the networks that `model` joins; None where it is one.
        expected: how many images of the test set got each decision; None where it is not known.
    """

    model: Classifier
    config: ModelConfig
    classes: list[str]
    preprocessing: Preprocessing
    bf16: bool
    rule: DecisionRule
    scores: dict[str, FittedScore]
    origin: dict[str, Any]
    plugins: dict[str, str] = field(default_factory=dict)
    ensemble: EnsembleConfig | None = None
    expected: Mapping[str, int] | None = None

    def save(self, folder: Path) -> None:
        """Write the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, self.model.state_dict())
        save_fitted(folder / SCORES, self.scores)
        (folder / DESCRIPTION).write_text(json.dumps(self._description(), indent=1), encoding="utf-8")

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "rtk": __version__,
            "origin": self.origin,
            "model": self.config.model_dump(mode="json"),
            "classes": self.classes,
            "preprocessing": asdict(self.preprocessing),
            "bf16": self.bf16,
            "rule": asdict(self.rule),
            **({"plugins": self.plugins} if self.plugins else {}),
            **({} if self.ensemble is None else {"ensemble": self.ensemble.model_dump(mode="json")}),
            **({} if self.expected is None else {"expected": dict(self.expected)}),
        }

    @classmethod
    def load(
        cls, folder: Path, device: str | None = None, plugins: Sequence[str | Path] = ()
    ) -> PackagedModel:
        """Read the folder that `save` wrote.

        Args:
            folder: see above.
            device: None: a GPU where there is one.
            plugins: the user's files that register its scores or backbone, where it needs any: a package
                names them, but does not hold them.

        Raises:
            ConfigError: it is none, damaged, or of another format, or needs a plug-in that is not among those
                given.
        """
        described = read_description(folder)
        _load_needed(described.plugins, plugins)
        scores = load_fitted(folder / SCORES)
        for name in (described.rule.confidence, described.rule.ood_score):
            if name not in scores:
                raise ConfigError(f"{folder / SCORES}: has no {name!r}, by which {DESCRIPTION} decides")
        packaged = cls(
            build_described(folder, described),
            described.model,
            described.classes,
            Preprocessing(**described.preprocessing.model_dump()),
            described.bf16,
            described.rule,
            scores,
            described.origin,
            described.plugins,
            described.ensemble,
            None if described.expected is None else {str(name): n for name, n in described.expected.items()},
        )
        return packaged.placed(device)

    def placed(self, device: str | None = None) -> PackagedModel:
        """Itself, with its model on a device (None: a GPU where there is one) and ready to predict.

        Raises:
            ConfigError: there is no such device.
        """
        wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            place = torch.device(wanted)
            self.model.to(place).eval()
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device: got {wanted!r}: {str(error).splitlines()[0]}") from None
        if self.bf16 and is_faster_in_bf16(self.model, place.type):
            self.model.autocast_dtype = torch.bfloat16
        return self

    def predict(self, encoded: Iterable[bytes]) -> list[dict[str, Any]]:
        """Label, probability, confidence, OOD score and decision of encoded images, in order.

        Where the rule has sets, `candidates` holds the classes that a likely-wrong image may be of; None of
        the others. An image that cannot be decoded gets `error`, the reason, and None everywhere else.
        """
        images = iter(encoded)
        results: list[dict[str, Any]] = []
        while batch := list(islice(images, BATCH)):
            results += self._predict_batch(batch)
        return results

    def _predict_batch(self, encoded: list[bytes]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        pixels, places = [], []
        for place, data in enumerate(encoded):
            try:
                pixels.append(self.preprocessing(data))
                places.append(place)
                results.append({"error": None})
            except BadImageError as error:
                results.append(failed_row(error))
        if pixels:
            for place, row in zip(places, self.predict_pixels(np.stack(pixels)), strict=True):
                results[place] = row | results[place]
        return results

    @torch.no_grad()
    def predict_pixels(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        """What `predict` says, but for `error`, of decoded images uint8 (N, H, W, 3)."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(self.model.mean.device)
        logits, features = (part.cpu() for part in self.model.forward_features(to_float(images)))
        probability, label = logits.double().softmax(1).max(1)
        scored = {name: self._score(name, logits, features) for name in self.scores}
        confidence, ood_score = scored[self.rule.confidence], scored[self.rule.ood_score]
        decisions = self.rule.decide(confidence, ood_score, label.numpy())
        names = [self.classes[index] for index in label.tolist()]
        columns = (names, probability.tolist(), confidence.tolist(), ood_score.tolist(), decisions.tolist())
        rows = [dict(zip(FIELDS, row, strict=True)) for row in zip(*columns, strict=True)]
        if self.rule.sets is not None:
            inside = prediction_sets(logits.double().softmax(1).numpy(), self.rule.sets)
            for row, members in zip(rows, inside, strict=True):
                row[CANDIDATES] = self._candidates(members) if row["decision"] == LIKELY_WRONG else None
        return rows

    def _candidates(self, members: np.ndarray) -> list[str]:
        """Names of the classes that are in a set, by flags (C,)."""
        return [self.classes[index] for index in np.flatnonzero(members)]

    def _score(self, name: str, logits: Tensor, features: Tensor) -> np.ndarray:
        return apply_score(name, self.scores[name], Predictions(logits, features)).double().numpy()


FIELDS = ("label", "probability", "confidence", "ood_score", "decision")
CANDIDATES = "candidates"  # beside them, of a model whose rule has sets of classes


def failed_row(error: BadImageError) -> dict[str, Any]:
    """What is said of an image that cannot be read: `error`, the reason, and None everywhere else."""
    return {**dict.fromkeys(FIELDS), "error": str(error)}


def _load_needed(needed: Mapping[str, str], given: Sequence[str | Path]) -> None:
    """Load the plug-ins that a package needs: files of the same content, whatever their names.

    Raises:
        ConfigError: one is missing, or is another than the model was exported with.
    """
    files = {file.sha256: file for file in map(PluginFile.read, map(Path, given))}
    for name, sha256 in needed.items():
        if sha256 in files:
            load_plugins([files[sha256].path])
        elif not is_loaded(sha256):
            same_name = [file.sha256 for file in files.values() if file.path.name == name]
            got = f"got one of SHA-256 {same_name[0]}" if same_name else "got none"
            raise ConfigError(
                f"model: wanted its plug-in {name} of SHA-256 {sha256}, {got}; give it by "
                "rtk predict --plugin FILE or PackagedModel.load(..., plugins=[FILE])"
            )


# ---------------------------------------------------------------- as an MLflow model


class MLflowModel:
    """What MLflow calls: a table with a column `image` of encoded bytes in, a table of predictions out."""

    def __init__(self, packaged: PackagedModel) -> None:
        self.packaged = packaged

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """A pandas.DataFrame with a row for each image."""
        import pandas as pd

        return pd.DataFrame(self.packaged.predict(model_input["image"]))


def _load_pyfunc(path: str) -> MLflowModel:
    """MLflow's entry point: `loader_module: rtk.deploy.packaged_model`."""
    return MLflowModel(PackagedModel.load(Path(path)))
