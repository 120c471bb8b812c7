"""The GPU benchmark starts where there is no Ray, and its stand-ins agree with what they stand in for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import betaincinv

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_training import beta_quantile, gratings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HIDDEN = {"ray", "mlflow", "optuna", "scipy", "sklearn", "pandas", "matplotlib"}
# A finder that does not find them, as on a machine without; the last part is the quickest.
SCRIPT = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {HIDDEN!r}
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, {str(BENCHMARKS)!r})
sys.argv = ["gpu.py", "--device", "cpu", "--part", "d", "--minutes", "0.01"]
runpy.run_path({str(BENCHMARKS / "gpu.py")!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_it_starts_from_a_bare_checkout_without_ray(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("d  views") for line in lines) == 2
    assert lines[-2].startswith("d  part done")
    assert lines[-1].startswith("seconds ")


def test_the_table_of_beta_quantiles_is_that_of_the_exact_inverse():
    u = np.random.default_rng(0).random((50, 3))
    for shape in (1.5, 3, 10):
        assert np.abs(beta_quantile(u, shape, shape) - betaincinv(shape, shape, u)).max() < 1e-4


def test_generated_pictures_differ_by_class():
    pictures = gratings(60, 0, 0.0)
    assert pictures.images.shape == (60, 3, 32, 32)
    assert set(pictures.labels) == set(range(10))
    # Along the stripes of class 0, which are upright, a picture changes little; across them much.
    first = pictures.images[pictures.labels == 0].astype(float)
    assert np.abs(np.diff(first.mean(2), axis=2)).mean() > 3 * np.abs(np.diff(first.mean(3), axis=2)).mean()
