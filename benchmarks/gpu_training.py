"""Part f of `gpu.py`: CE and SURE+ trained by the worker's own loop, without Ray, and evaluated."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from gpu_engine import has_deepspeed, join_alone
from gpu_steps import MINUTES, PAPER_IMAGES, Settings, against
from torch import Tensor, nn

from rtk.config.load import load_config
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.image import decode_rgb
from rtk.data.sets.of_run import RunSets, split_train
from rtk.data.views import maker
from rtk.data.views.augment import to_float
from rtk.data.views.fractals import render_fractals
from rtk.evaluate.measure import ScoreColumns, score_metrics
from rtk.evaluate.model import load_model
from rtk.metrics import aurc
from rtk.runs.folder import RunFolder
from rtk.scores import SCORES, FitData, Predictions, compute_image_score, compute_score, fit_image_score
from rtk.scores.table import DEFAULT_SCORES
from rtk.train.job import TrainingData, TrainingJob
from rtk.train.worker import run_job

RECIPES = {"CE": "resnet18_cifar100_ce", "SURE+": "resnet18_cifar100_sure_plus"}
PAPER = {"SURE+": "81.66 % accuracy after 200 epochs of 50,000 images (arXiv 2603.03903)"}
NEAR, FAR = ("cifar10/test",), ("mnist/test", "street_chars/train", "dtd10/all_32")
BATCH = 500  # images of a forward pass when predicting
Sets = dict[str, ImageArrays]


def train_and_evaluate(settings: Settings) -> bool:
    """Print, for each method, epochs, images/s and the metrics of the nine scores beside the paper's."""
    if not has_deepspeed():
        print("f  DeepSpeed is not here: not trained (pip install deepspeed)", flush=True)
        return True
    join_alone(settings.device)
    _draw_without_scipy()
    sets, mixing = _read_sets(settings) if settings.data or settings.train else _generated_sets(settings)
    sizes = ", ".join(f"{name} {len(arrays):,}" for name, arrays in sets.items())
    print(f"f  {'generated pictures' if not (settings.data or settings.train) else 'images'}: {sizes}")
    with tempfile.TemporaryDirectory() as folder:
        configs = {name: _config(recipe, settings, folder) for name, recipe in RECIPES.items()}
        epochs = settings.epochs or _epochs_that_fit(configs, sets, mixing, settings)
        fine = True
        for name, config in configs.items():
            timed = config.model_copy(
                update={"train": config.train.model_copy(update={"duration": f"{epochs}ep"})}
            )
            run, rate = _train(timed, sets, mixing, settings.device)
            print(f"f  {name}: {epochs} epochs, {rate:.0f} images/s, validation and checkpoints included")
            if name == "SURE+":
                line = against(PAPER_IMAGES / rate / 60, MINUTES, "minutes", settings.small, least=False)
                print(f"f  {name}: 200 epochs of 50,000 images at this speed: {line}", flush=True)
            fine &= _print_metrics(name, run, sets, settings.device)
    return fine


def _draw_without_scipy() -> None:
    """Let RegMixup draw its Beta numbers by a table where SciPy, which inverts them exactly, is not here."""
    if importlib.util.find_spec("scipy") is None:
        maker.beta = beta_quantile


def beta_quantile(u: np.ndarray, a: float, b: float) -> np.ndarray:
    """Quantiles of Beta(a, b), a and b at least 1, in the shape of `u`, to about 1e-6."""
    x = np.linspace(0, 1, 20_001)
    density = x ** (a - 1) * (1 - x) ** (b - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(u, mass / mass[-1], x)


def _config(recipe: str, settings: Settings, folder: str) -> RunConfig:
    """The recipe, with what it needs of files left out, as they are read here."""
    changes = [
        "data.train=here",
        "data.test=here",
        "data.validation_ood=null",
        f"output={json.dumps(folder)}",
    ]
    changes += ["data.mixing=null"] if recipe == RECIPES["SURE+"] else []
    if settings.small:
        changes += ["model.width=8", "train.batch_size=32"]
        changes += ["averaging.decay=0.9", "averaging.ramp=10"] if recipe == RECIPES["SURE+"] else []
    return load_config(recipe, changes)


def _epochs_that_fit(
    configs: Mapping[str, RunConfig], sets: Sets, mixing: ImageArrays, settings: Settings
) -> int:
    """As many epochs of both methods as fit into four fifths of the time, from one epoch of each."""
    started = time.perf_counter()
    for config in configs.values():
        one = config.model_copy(update={"train": config.train.model_copy(update={"duration": "1ep"})})
        _train(one, sets, mixing, settings.device)
    taken = time.perf_counter() - started
    return max(1, min(200, int((0.8 * settings.seconds - taken) / taken)))


def _train(config: RunConfig, sets: Sets, mixing: ImageArrays, device: str) -> tuple[RunFolder, float]:
    """A finished run, and its images/s from start to end.

    Raises:
        RuntimeError: it did not finish.
    """
    run = RunFolder.create(config)
    kept, held = split_train(config, len(sets["train"]))
    own = RunSets(train=sets["train"].take(kept), validation=sets["train"].take(held), mixing=mixing)
    job = TrainingJob(str(run.path), config.model_dump(mode="json"), _classes(sets), len(kept), resume=False)
    started = time.perf_counter()
    outcome = run_job(job, TrainingData(own), torch.device(device), lambda report: None)
    seconds = time.perf_counter() - started
    if outcome["status"] != "finished":
        raise RuntimeError(f"{config.name}: {outcome}")
    return run, job.total_steps * config.train.batch_size / seconds


def _classes(sets: Sets) -> int:
    return int(sets["train"].labels.max()) + 1


# ---------------------------------------------------------------- data


def _read_sets(settings: Settings) -> tuple[Sets, ImageArrays]:
    """CIFAR-100 and its OOD sets below a folder of prepared data, or a training file of the caller's."""
    folder = Path(settings.data or ".")
    full, part = folder / "cifar100/train.parquet", folder / "cifar100/train_10k.parquet"
    train = Path(settings.train) if settings.train else (full if full.exists() else part)
    rows = 400 if settings.small else None
    named = {"train": train, "test": folder / "cifar100/test.parquet"}
    named |= {f"{group}:{name}": folder / f"{name}.parquet" for group, names in _groups() for name in names}
    sets = {name: decode_file(path, 32, rows) for name, path in named.items() if path.exists()}
    if "train" not in sets or "test" not in sets:
        raise FileNotFoundError(
            f"{folder}: wanted cifar100/train.parquet (or --train FILE) and cifar100/test.parquet"
        )
    pictures = folder / "mixing/all.parquet"
    return sets, decode_file(pictures, 36, rows) if pictures.exists() else _fractals()


def _groups() -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("near", NEAR), ("far", FAR)


def decode_file(path: Path, side: int, rows: int | None = None) -> ImageArrays:
    """Images of a prepared Parquet file as `side` x `side` pixels, the first `rows` of them."""
    table = pq.read_table(path, columns=["image", "label"])[:rows]
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(partial(_planes, side=side), table["image"].to_pylist()))
    labels = np.array(table["label"].to_pylist(), np.int64)
    return ImageArrays(np.stack(images), labels, np.arange(len(labels)))


def _planes(data: bytes, side: int) -> np.ndarray:
    return decode_rgb(data, side, exif="ignore").transpose(2, 0, 1)


def _generated_sets(settings: Settings) -> tuple[Sets, ImageArrays]:
    """Ten classes of coloured gratings; near: gratings of other angles; far: noise."""
    rows = 400 if settings.small else 20_000
    sets = {"train": gratings(rows, 0, 0.0), "test": gratings(rows // 2, 1, 0.0)}
    noise = np.random.default_rng(3).integers(0, 256, (rows // 2, 3, 32, 32), dtype=np.uint8)
    far = ImageArrays(noise, np.zeros(rows // 2, np.int64), np.arange(rows // 2))
    return {**sets, "near:gratings": gratings(rows // 2, 2, 0.5), "far:noise": far}, _fractals()


def gratings(rows: int, seed: int, turned: float, classes: int = 10) -> ImageArrays:
    """Noisy gratings, uint8 (rows, 3, 32, 32): the class is the angle, `turned` by a share of a class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    angle = ((labels + turned) * np.pi / classes)[:, None, None]
    y, x = np.mgrid[:32, :32]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.8 + generator.uniform(0, 6, (rows, 1, 1)))
    colour = generator.uniform(20, 60, (rows, 3, 1, 1))
    pixels = 128 + colour * wave[:, None] + generator.normal(0, 25, (rows, 3, 32, 32))
    return ImageArrays(pixels.clip(0, 255).astype(np.uint8), labels, np.arange(rows))


def _fractals() -> ImageArrays:
    return ImageArrays(render_fractals(32, 36, 0), np.zeros(32, np.int64), np.arange(32))


# ---------------------------------------------------------------- evaluation


def _print_metrics(name: str, run: RunFolder, sets: Sets, device: str) -> bool:
    """A line of accuracy and AURC, and one for each score."""
    config = run.config()
    model = load_model(run).to(device).requires_grad_(False)
    kept, held = split_train(config, len(sets["train"]))
    parts = {**sets, "train": sets["train"].take(kept), "held out": sets["train"].take(held)}
    scores = score_sets(model, parts, device)
    test = scores["test"]
    paper = f"; the paper: {PAPER[name]}" if name in PAPER else ""
    accuracy, risk = 100 * test["correct"].mean(), 1000 * aurc(test["msp"], test["correct"])
    print(f"f  {name}: accuracy {accuracy:.2f} %, AURC {risk:.1f} (x1000){paper}", flush=True)
    for score in DEFAULT_SCORES:
        means = score_metrics(_columns(scores, score), "exact")["means"]
        shown = [f"{key} {means[key]:.4f}" for key in sorted(means) if key.startswith(("auroc", "ds_"))]
        print(f"f  {name}  {score:<8} {'  '.join(shown)}", flush=True)
    return bool(np.isfinite(accuracy))


def _columns(scores: Mapping[str, Mapping[str, np.ndarray]], score: str) -> dict[str, ScoreColumns]:
    """What the metrics of a score take: the MSP as the confidence beside it."""
    sets = {name: own for name, own in scores.items() if name == "test" or ":" in name}
    return {
        name: ScoreColumns(own["msp"], own[score], own["correct"], name.partition(":")[0])
        for name, own in sets.items()
    }


def score_sets(model: nn.Module, sets: Sets, device: str) -> dict[str, dict[str, np.ndarray]]:
    """Every one of the nine scores, and `correct`, of the test set and the OOD sets."""
    predicted = {name: _predict(model, arrays, device) for name, arrays in sets.items()}
    fit = FitData(predicted["train"], predicted["held out"], *model.head.used_weights())
    gram = fit_image_score(
        "gram", model, list(_batches(sets["train"], device)), list(_batches(sets["held out"], device))
    )
    scored: dict[str, dict[str, np.ndarray]] = {}
    for name in sets:
        if name in ("train", "held out"):
            continue
        known = predicted[name]
        own: dict[str, Any] = {"correct": known.logits.argmax(1) == known.labels}
        for score in DEFAULT_SCORES:
            if SCORES[score].inputs == "images":
                parts = [compute_image_score(score, model, x, gram) for x, _ in _batches(sets[name], device)]
                own[score] = torch.cat(parts)
            else:
                settings = {"k": min(50, len(fit.train))} if score == "knn" else {}
                own[score] = compute_score(score, known, fit, **settings)
        scored[name] = {key: value.cpu().numpy() for key, value in own.items()}
    return scored


def _predict(model: nn.Module, arrays: ImageArrays, device: str) -> Predictions:
    with torch.no_grad():
        pairs = [model.forward_features(images) for images, _ in _batches(arrays, device)]
    logits, features = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return Predictions(logits, features, torch.from_numpy(arrays.labels).to(device))


def _batches(arrays: ImageArrays, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Images in [0, 1] and labels."""
    for first in range(0, len(arrays), BATCH):
        rows = slice(first, first + BATCH)
        images = torch.from_numpy(arrays.images[rows].copy()).to(device)
        yield to_float(images), torch.from_numpy(arrays.labels[rows]).to(device)
