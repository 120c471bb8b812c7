"""Do decision rules hold what they promise? A thousand recalibrations on resampled calibration sets.

The images of a pool are taken for all there are: calibration sets are drawn from them with replacement, and a
rule's risk and coverage are those on the whole pool, so that they are known exactly. Printed for every method
and wanted risk: in which share of the recalibrations the risk is exceeded, the share that reached any
thresholds, the mean coverage and what it costs against the empirical choice, and the risk in expectation,
all wrong among all accepted images.

    python benchmarks/guarantee.py                                  scikit-learn's digits, a linear classifier
    python benchmarks/guarantee.py runs/a --images 1000 2000        the test images of an evaluated run
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from rtk.metrics.risk_control import hoeffding_bentkus_p_value
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result, read_scores
from rtk.scores.guarantee import Goal, choose
from rtk.scores.threshold_search import ScoredImages, choose_thresholds, combine

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
HEADINGS = ("risk", "method", "exceeded %", "reached %", "coverage %", "lost %", "expected risk %")


def main() -> None:
    """Recalibrate and print a Markdown table for every pool and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="evaluated runs; none: digits")
    parser.add_argument("--images", type=int, nargs="+", default=[1000], help="in a calibration set")
    parser.add_argument("--risks", type=float, nargs="+", default=RISKS)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--ood-acceptance", type=float, default=0.2, help="that the last method holds too")
    options = parser.parse_args()
    pools = {path.name: of_run(path) for path in options.runs} or {"digits": digits()}
    for name, pool in pools.items():
        for images in options.images:
            wrong = 1 - pool.is_correct[pool.is_id].mean()
            print(f"\n{name}: {pool.is_id.sum():,} images, {wrong:.1%} wrong; {images:,} to calibrate,")
            print(f"{options.repeats:,} times, confidence {options.confidence:.0%}\n")
            print_table(pool, images, options)


def print_table(pool: ScoredImages, images: int, options: argparse.Namespace) -> None:
    """A row for every wanted risk and method."""
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for risk in options.risks:
        found = recalibrate(pool, images, risk, options)
        reference = found["empirical"].coverage.mean()
        for name, outcome in found.items():
            shares = [outcome.exceeded(risk), outcome.reached, outcome.coverage.mean()]
            shares += [reference - outcome.coverage.mean(), outcome.expected_risk]
            print(f"| {risk:g} | {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |")
        if pool.is_id.all():
            continue
        both = found["ltt, OOD bound too"]
        share = (both.ood > options.ood_acceptance).mean()
        print(f"| {risk:g} | the OOD bound of {options.ood_acceptance:g} | {100 * share:.1f} | | | | |")


@dataclass(frozen=True)
class Outcome:
    """What the rules of all recalibrations do on the pool: shares of its ID images, and of its OOD images."""

    coverage: np.ndarray
    wrong: np.ndarray
    ood: np.ndarray

    @property
    def reached(self) -> float:
        """Share of the recalibrations that accept anything."""
        return float((self.coverage > 0).mean())

    @property
    def expected_risk(self) -> float:
        """All wrong among all accepted images."""
        return float(self.wrong.sum() / max(self.coverage.sum(), 1e-12))

    def exceeded(self, risk: float) -> float:
        """Share of the recalibrations whose risk on the pool is above a wanted one."""
        return float((self.wrong > risk * self.coverage + 1e-12).mean())


def recalibrate(
    pool: ScoredImages, images: int, risk: float, options: argparse.Namespace
) -> dict[str, Outcome]:
    """Outcomes by method, all on the same calibration sets."""
    level = 1 - options.confidence
    goals = {
        "ltt": Goal(risk, level),
        "ltt, Hoeffding-Bentkus": Goal(risk, level, p_value=hoeffding_bentkus_p_value),
        "ltt, Holm on a grid": Goal(risk, level, procedure="holm"),
        "crc": Goal(risk, level, "crc"),
        "ltt, OOD bound too": Goal(risk, level, ood_acceptance=options.ood_acceptance),
    }
    known, others = np.flatnonzero(pool.is_id), np.flatnonzero(~pool.is_id)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("empirical", *goals)}
    if not others.size:
        del goals["ltt, OOD bound too"], found["ltt, OOD bound too"]
    for repeat in range(options.repeats):
        generator = np.random.default_rng([7, repeat])
        id_rows, ood_rows = (generator.choice(rows, images) for rows in (known, others) if rows.size)
        drawn = pool.only(id_rows)
        found["empirical"].append(on_pool(pool, *(choose_thresholds(drawn, risk) or (np.inf, np.inf))))
        for name, goal in goals.items():
            both = goal.ood_acceptance is not None
            chosen = choose(pool.only(np.append(id_rows, ood_rows)) if both else drawn, goal, seed=repeat)
            found[name].append(on_pool(pool, float(chosen.tau_id[0]), chosen.tau_ood))
    return {name: Outcome(*np.array(rows).T) for name, rows in found.items()}


def on_pool(pool: ScoredImages, tau_id: float, tau_ood: float) -> tuple[float, float, float]:
    """Shares of the ID images that are accepted, and accepted and wrong; of the OOD images accepted."""
    accepted = (pool.confidence >= tau_id) & (pool.ood_score >= tau_ood)
    known = pool.is_id
    return (
        float(accepted[known].mean()),
        float((accepted & ~pool.is_correct)[known].mean()),
        float(accepted[~known].mean()) if not known.all() else 0.0,
    )


def digits(trained_on: int = 50) -> ScoredImages:
    """A linear classifier that has seen few digits from 0 to 7; 8 and 9 are OOD, energy the OOD score."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, labels = pixels[order] / 16, labels[order]
    known = np.flatnonzero(labels < 8)
    train, rest = known[:trained_on], np.append(known[trained_on:], np.flatnonzero(labels > 7))
    model = LogisticRegression(C=1.0, max_iter=1000).fit(pixels[train], labels[train])
    logits = model.decision_function(pixels[rest])
    confidence, energy = model.predict_proba(pixels[rest]).max(1), np.logaddexp.reduce(logits, 1)
    correct, is_id = model.predict(pixels[rest]) == labels[rest], labels[rest] < 8
    return combine(confidence[is_id], energy[is_id], correct[is_id], confidence[~is_id], energy[~is_id])


def of_run(path: Path) -> ScoredImages:
    """The test images of an evaluated run, and its OOD images, by its headline scores."""
    run = RunFolder.open(path)
    result, table = read_result(run), read_scores(run)
    names, is_id = (result["confidence"], result["ood_score"]), np.array(table["group"]) == "id"
    confidence, ood_score = (table[name].to_numpy() for name in names)
    correct = table["is_correct"].to_numpy()
    return combine(confidence[is_id], ood_score[is_id], correct[is_id], confidence[~is_id], ood_score[~is_id])


if __name__ == "__main__":
    main()
