"""Part a of `gpu.py`: are the numbers on the device those of float64 on the CPU?"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from gpu_steps import RESNET, VIT, FastStep, Settings, random_views
from gpu_views import pixmix_inputs
from torch import Tensor, nn

from rtk.data.views.pixmix import draw_pixmix, pixmix
from rtk.scores import SCORES, FitData, Predictions, compute_score
from rtk.scores.table import DEFAULT_SCORES

# Of the weights' change, fp32 against float64; kinks (ReLU) and batch statistics amplify rounding at w + e.
STEP_TOLERANCE = {"ResNet-18 CIFAR": 1e-3, "ViT-L/16": 1e-4}
SCORE_TOLERANCE = 1e-3  # of a score's spread


def check_numerics(settings: Settings) -> bool:
    """Print every check; False where one is off."""
    fine = all(
        [_check_steps(settings.device), _check_pixmix(settings.device), _check_scores(settings.device)]
    )
    return _run_marked_tests() and fine


def _check_steps(device: str) -> bool:
    fine = True
    for case in (RESNET, VIT):  # always the small models
        changes = []
        for place, dtype in ((device, torch.float32), ("cpu", torch.float64)):
            torch.manual_seed(0)
            model = case.build(True).to(place, dtype)
            before = _flat_weights(model)
            # A plain gradient step: Adam would blow up the noise in gradients that are zero but for rounding.
            step = FastStep(model, torch.optim.SGD(model.parameters(), lr=0.1))
            for _ in range(2):
                step(random_views(8, case.side[1], case.classes, place, dtype))
            changes.append(_flat_weights(model) - before)
        error = float((changes[0] - changes[1]).norm() / changes[1].norm())
        fine &= error <= STEP_TOLERANCE[case.name]
        print(
            f"a  {case.name}: two SURE+ steps, fp32 against float64: relative error {error:.1e}", flush=True
        )
    return fine


def _flat_weights(model: nn.Module) -> Tensor:
    """All parameters, float64 on the CPU."""
    return torch.cat([p.detach().double().cpu().flatten() for p in model.parameters()])


def _check_pixmix(device: str) -> bool:
    clean, pictures, draws = pixmix_inputs(64, 32)
    settings = draw_pixmix(draws, 3, 3, 4)
    here = pixmix(clean.to(device), pictures.to(device), settings).cpu()
    apart = float((here - pixmix(clean, pictures, settings)).abs().max() * 255)
    print(f"a  PixMix: at most {apart:.2f}/255 from the CPU's", flush=True)
    return apart <= 1


def _check_scores(device: str) -> bool:
    """Scores of predictions in fp32 on the device against float64 on the CPU, those of SURE+'s tables."""
    names = [name for name in DEFAULT_SCORES if SCORES[name].inputs != "images"]
    here, there = _predictions(device, torch.float32), _predictions("cpu", torch.float64)
    worst = {}
    for name in names:
        exact = compute_score(name, there[1], there[0])
        found = compute_score(name, here[1], here[0]).double().cpu()
        worst[name] = float((found - exact).abs().max() / exact.std())
    name = max(worst, key=lambda each: worst[each])
    print(
        f"a  {len(names)} scores, fp32 against float64: at most {worst[name]:.1e} of the spread ({name})",
        flush=True,
    )
    return worst[name] <= SCORE_TOLERANCE


def _predictions(device: str, dtype: torch.dtype) -> tuple[FitData, Predictions]:
    """Clustered features of ten classes, and their logits, as of a trained network."""
    generator = np.random.default_rng(0)
    weight = 0.3 * generator.normal(size=(10, 64))  # logits small enough that no softmax is 1 in fp32

    def draw(rows: int) -> Predictions:
        labels = generator.integers(0, 10, rows)
        features = np.maximum(weight[labels] + 0.5 * generator.normal(size=(rows, 64)), 0)
        tensors = (features @ weight.T, features)
        logits, features_ = (torch.from_numpy(each).to(device, dtype) for each in tensors)
        return Predictions(logits, features_, torch.from_numpy(labels).to(device))

    head = torch.from_numpy(weight).to(device, dtype)
    fit = FitData(draw(600), draw(200), head, torch.zeros(10, device=device, dtype=dtype))
    return fit, draw(200)


def _run_marked_tests() -> bool:
    """Tests that need a GPU, where pytest is at hand."""
    root = Path(__file__).parents[1]
    files = [str(f) for f in (root / "tests").rglob("test_*.py") if "mark.gpu" in f.read_text("utf-8")]
    if not files or importlib.util.find_spec("pytest") is None:
        print("a  tests marked gpu: not run, pytest or the tests are not here", flush=True)
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    print(f"a  tests marked gpu, {len(files)} files: {lines[-1]}", flush=True)
    return done.returncode == 0
