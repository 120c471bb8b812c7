"""Seconds of the joint metrics and the AURC family, beside plain implementations of the same definitions.

    python benchmarks/metrics.py [--rounds 3] [--large] [--reduce]

Every number is processor time on one thread, the least of the rounds. The plain sides:

- grid: as published, a mask over all images for each of the 1001 x 1001 pairs of thresholds, in float32. To
  spare the wait, 5 of the 1001 thresholds on the OOD score are timed and the time scaled; their counts must
  equal rtk's.
- exact: for each threshold on the OOD score that an ID image gives, count along the images sorted by
  confidence. 100 evenly spaced thresholds are timed and scaled; their risks must not be below rtk's curve.
- AURC: sort, count, average, one metric after the other.

--large adds the exact metrics for 50,000 + 50,000 images and the AURC family for 10 million. --reduce instead
writes 10 million predictions with Ray and reduces them (wall-clock time, peak memory of the driver).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rtk import metrics

Images = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
GRID_ROWS, EXACT_ROWS = 5, 100


def synthetic_images(n_id: int, n_ood: int) -> Images:
    """ID images whose confidence and OOD score follow one skill, OOD images without any; no ties."""
    rng = np.random.default_rng(0)
    skill = rng.normal(size=n_id)
    id_confidence = 1 / (1 + np.exp(-skill - rng.normal(1, 0.5, n_id)))
    id_correct = rng.random(n_id) < 1 / (1 + np.exp(-1.5 * skill - 1))
    ood_confidence = 1 / (1 + np.exp(-rng.normal(size=n_ood)))
    return id_confidence, skill + rng.normal(2, 1, n_id), id_correct, ood_confidence, rng.normal(size=n_ood)


def least_seconds(call: Callable[[], object], rounds: int) -> float:
    """Least processor time of several calls."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def plain_grid(images: Images, rows: np.ndarray) -> np.ndarray:
    """Published definition: correct, ID and accepted images (len(rows), 1001, 3), one pair at a time."""
    id_confidence, id_score, correct, ood_confidence, ood_score = images
    low, high = (f(np.concatenate([id_score, ood_score])).astype(np.float32) for f in (np.min, np.max))
    id_scaled, ood_scaled = (
        (s.astype(np.float32) - low) / (high - low + np.float32(1e-12)) for s in (id_score, ood_score)
    )
    id_float, ood_float = id_confidence.astype(np.float32), ood_confidence.astype(np.float32)
    thresholds = np.linspace(0, 1, 1001, dtype=np.float32)
    counts = np.empty((rows.size, thresholds.size, 3), np.int64)
    for i, tau_ood in enumerate(thresholds[rows]):
        for j, tau_id in enumerate(thresholds):
            known = (id_scaled >= tau_ood) & (id_float >= tau_id)
            unseen = (ood_scaled >= tau_ood) & (ood_float >= tau_id)
            counts[i, j] = (known & correct).sum(), known.sum(), known.sum() + unseen.sum()
    return counts


def plain_exact(images: Images, tau_oods: np.ndarray) -> np.ndarray:
    """Smallest risk (N,) at each number of accepted ID images, over the given thresholds on the OOD score."""
    id_confidence, id_score, correct, ood_confidence, ood_score = images
    order, ood_order = np.argsort(-id_confidence), np.argsort(-ood_confidence)
    n_ood_above = np.searchsorted(-ood_confidence[ood_order], -id_confidence[order], side="right")
    lowest = np.full(id_score.size, np.inf)
    for tau in tau_oods:
        known = id_score[order] >= tau
        unseen = np.append(0, np.cumsum(ood_score[ood_order] >= tau))
        accepted_id = np.cumsum(known)[known]
        right = np.cumsum(known & correct[order])[known]
        risk = 1 - right / (accepted_id + unseen[n_ood_above][known])
        np.minimum.at(lowest, accepted_id - 1, risk)
    return lowest


def plain_areas(confidence: np.ndarray, correct: np.ndarray) -> tuple[float, float, float]:
    """AURC as the mean of risks, E-AURC and AUGRC, each from a sort of its own."""

    def risks() -> np.ndarray:
        errors = ~correct[np.argsort(-confidence, kind="stable")]
        return np.cumsum(errors) / np.arange(1, errors.size + 1)

    rate = float((~correct).mean())
    excess = risks().mean() - (rate + (1 - rate) * np.log(1 - rate))
    generalised = (risks() * np.arange(1, correct.size + 1) / correct.size).mean()
    return float(risks().mean()), float(excess), float(generalised)


def show(name: str, ours: float, plain: float) -> None:
    """One line of the table."""
    print(f"{name:<52} {ours:9.3f} s   plain {plain:9.1f} s   ratio {plain / ours:7.1f}", flush=True)


def measure_grid(images: Images, rounds: int) -> None:
    """DS-F1 and DS-AURC on the published grid."""
    ours = least_seconds(
        lambda: (metrics.ds_f1(*images, method="grid"), metrics.ds_aurc(*images, method="grid")), rounds
    )
    rows = np.linspace(0, 1000, GRID_ROWS + 2).astype(int)[1:-1]
    start = time.process_time()
    counts = plain_grid(images, rows)
    plain = (time.process_time() - start) * 1001 / rows.size
    n_id, n_ood = images[2].size, images[3].size
    grid_counts = metrics.GridCounts.from_arrays(
        np.append(images[0], images[3]),
        np.append(images[1], images[4]),
        np.append(images[2], np.zeros(n_ood, bool)),
        np.arange(n_id + n_ood) >= n_id,
        metrics.ScoreRange.from_array(np.append(images[1], images[4])),
    )
    accepted = grid_counts.accepted()
    for column, table in enumerate((accepted.correct, accepted.id_count, accepted.total)):
        np.testing.assert_array_equal(counts[..., column], table[rows])
    show(f"DS-F1 + DS-AURC, grid, {n_id:,} + {n_ood:,}", ours, plain)


def measure_exact(images: Images, rounds: int) -> None:
    """DS-F1 and DS-AURC, exact."""
    n_id, n_ood = images[2].size, images[3].size
    seconds = [least_seconds(lambda m=m: m(*images), rounds) for m in (metrics.ds_f1, metrics.ds_aurc)]
    taus = np.sort(images[1])[np.linspace(0, n_id - 1, EXACT_ROWS).astype(int)]
    start = time.process_time()
    risk = plain_exact(images, taus)
    plain = (time.process_time() - start) * n_id / EXACT_ROWS
    assert (risk >= metrics.ds_risk_coverage(*images)[1] - 1e-12).all()
    show(f"DS-F1, exact, {n_id:,} + {n_ood:,}", seconds[0], plain)
    show(f"DS-AURC, exact, {n_id:,} + {n_ood:,}", seconds[1], plain)


def measure_areas(n: int, rounds: int) -> None:
    """Accuracy, AURC, E-AURC and AUGRC."""
    confidence = np.random.default_rng(0).random(n)
    correct = np.random.default_rng(1).random(n) < confidence
    found, expected = metrics.selective_classification(confidence, correct), plain_areas(confidence, correct)
    np.testing.assert_allclose([found["aurc"], found["e_aurc"], found["augrc"]], expected, atol=2 / n)
    ours = least_seconds(lambda: metrics.selective_classification(confidence, correct), rounds)
    show(f"AURC family, {n:,}", ours, least_seconds(lambda: plain_areas(confidence, correct), rounds))


def synthetic_rows(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of a score table: even ids in-distribution, odd ones OOD."""
    ids = batch["id"]
    rng, is_ood = np.random.default_rng(int(ids[0])), ids % 2 == 1
    skill = rng.normal(np.where(is_ood, 0.0, 1.5))
    return {
        "set": np.where(is_ood, "cats", "test"),
        "group": np.where(is_ood, "near", "id"),
        "is_correct": rng.random(ids.size) < 1 / (1 + np.exp(-skill)),
        "msp": 1 / (1 + np.exp(-skill - rng.normal(size=ids.size))),
        "knn": skill + rng.normal(size=ids.size),
    }


def peak_megabytes() -> int:
    """Largest resident memory of this process since the last reset (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) // 1024


def measure_reduce(rows: int) -> None:
    """Joint metrics of a Parquet folder, reduced over Ray."""
    from rtk.evaluate.reduce import reduce_joint_metrics
    from rtk.runtime.ray_session import start_ray

    ray = start_ray()
    with tempfile.TemporaryDirectory() as folder:
        table = ray.data.range(rows, override_num_blocks=10).map_batches(synthetic_rows, batch_size=None)
        table.write_parquet(folder)
        scores = ray.data.read_parquet(folder)
        scores.schema()
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        before, start = peak_megabytes(), time.perf_counter()
        found = reduce_joint_metrics(scores, "cats", confidence="msp", ood_score="knn")
        seconds, peak = time.perf_counter() - start, peak_megabytes()
    print(f"{rows:,} rows reduced in {seconds:.1f} s; driver held {before} MB before, {peak} MB at its peak")
    print(found)


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--reduce", action="store_true")
    options = parser.parse_args()
    if options.reduce:
        measure_reduce(10_000_000)
        return
    print(f"NumPy {np.__version__}, one thread")
    images = synthetic_images(9_000, 9_000)
    measure_grid(images, options.rounds)
    measure_exact(images, options.rounds)
    measure_areas(100_000, options.rounds)
    if options.large:
        measure_exact(synthetic_images(50_000, 50_000), options.rounds)
        measure_areas(10_000_000, options.rounds)


if __name__ == "__main__":
    main()
