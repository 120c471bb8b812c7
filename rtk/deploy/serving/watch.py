"""What a server has decided: counted for Prometheus, and compared with what the evaluation has seen."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as Counted
from scipy.special import gammaln

from rtk.scores.decision import DECISIONS

WINDOW = 1000  # images
UNREADABLE = "unreadable"
TIE = 1e-9  # two statistics that differ less, relatively, are the same
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Watch:
    """Counts decisions, in all and of the last images.

    Args:
        model: what `/model` says of `run` and `step`.
        expected: images of the test set by the decision that they got; None: not known.
        window: how many images are the last ones.
    """

    def __init__(
        self, model: Mapping[str, Any], expected: Mapping[str, int] | None, window: int = WINDOW
    ) -> None:
        self.expected = expected
        self.since = datetime.now(UTC).isoformat(timespec="seconds")
        self._total: Counter[str] = Counter()
        self._last: deque[str] = deque(maxlen=window)
        self._registry = CollectorRegistry()
        self._images = Counted(
            "rtk_served_images", "Images by decision", ["decision"], registry=self._registry
        )
        self._refused = Counted(
            "rtk_served_refused", "Requests by the status they got", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "rtk_served_seconds", "From a request to its answer", buckets=SECONDS, registry=self._registry
        )
        self._shares = Gauge(
            "rtk_served_share", "Share among the last images", ["decision"], registry=self._registry
        )
        self._add_gauges(model)

    def _add_gauges(self, model: Mapping[str, Any]) -> None:
        info = Gauge("rtk_served_model", "1; what is served", ["run", "step"], registry=self._registry)
        info.labels(str(model["run"]), str(model["step"])).set(1)
        expected = Gauge(
            "rtk_served_expected_share", "Share in the evaluation", ["decision"], registry=self._registry
        )
        self._images.labels(UNREADABLE)
        for name in DECISIONS:
            self._images.labels(name)
            if self.expected is not None:
                expected.labels(name).set(_shares(self.expected)[name])

    def _share(self, decision: str) -> float:
        return _shares(Counter(self._last))[decision]

    def note(self, row: Mapping[str, Any]) -> None:
        """Count an image."""
        decision = row["decision"] or UNREADABLE
        self._total[decision] += 1
        self._images.labels(decision).inc()
        if decision == UNREADABLE:
            return
        self._last.append(decision)
        if len(self._last) == 1:  # before that there is no share, not one of 0
            for name in DECISIONS:
                self._shares.labels(name).set_function(partial(self._share, name))

    def note_request(self, seconds: float, status: int) -> None:
        """Count a request: how long it took, or with which status it was refused."""
        if status < 400:
            self._seconds.observe(seconds)
        else:
            self._refused.labels(str(status)).inc()

    def prometheus(self) -> bytes:
        """All counts, in Prometheus' text format."""
        return generate_latest(self._registry)

    def status(self) -> dict[str, Any]:
        """Counts since the start, and of the last images their shares beside what was expected.

        `p_value` is the probability of shares that differ at least as much if nothing had changed; None where
        nothing is expected, or nothing has come.
        """
        last, expected = Counter(self._last), self.expected
        return {
            "since": self.since,
            "images": dict.fromkeys((*DECISIONS, UNREADABLE), 0) | dict(self._total),
            "last": _with_shares(last),
            "expected": None if expected is None else _with_shares(expected),
            "p_value": None if expected is None else p_value(last, expected),
        }


def _with_shares(counts: Mapping[str, int]) -> dict[str, float]:
    return {"images": sum(counts.values()), **_shares(counts)}


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Share of each decision; none where there are no images."""
    total = sum(counts.values())
    return {name: counts.get(name, 0) / total for name in DECISIONS} if total else {}


def p_value(seen: Mapping[str, int], expected: Mapping[str, int]) -> float | None:
    """Of the decisions seen, if they came as the test set's did; see `Watch.status`; both are counts.

    The permutation test of Pearson's chi-squared statistic: of all ways to draw as many images as were seen
    from these and the test set's together, the share of those that make the statistic at least as large. It
    is exact, where the chi-squared distribution is off by far for a decision that the test set hardly knows:
    if of 1,000 test images one is unfamiliar, as is the first to come, it says 3e-109 where 0.002 is right.
    """
    table = np.array([[counts.get(name, 0) for name in DECISIONS] for counts in (seen, expected)])
    if not table.any(1).all():
        return None
    table = table[:, table.sum(0).argsort()]
    (drawn, left), both = table.sum(1).tolist(), table.sum(0)
    ways = _ways(drawn, both)
    wanted, weights = both * drawn / (drawn + left), 1 / np.maximum(both, 1)
    # But for a factor that is the same for all ways.
    statistics, observed = weights @ (ways - wanted[:, None]) ** 2, weights @ (table[0] - wanted) ** 2
    logarithms = -_log_choices(drawn + left, drawn) + sum(
        _log_choices(count, np.arange(min(drawn, count) + 1))[taken]
        for count, taken in zip(both.tolist(), ways, strict=True)
    )
    return min(1.0, float(np.exp(logarithms[statistics >= observed * (1 - TIE)]).sum()))


def _ways(drawn: int, both: np.ndarray) -> np.ndarray:
    """All counts int64 (3, ways) of three kinds, the rarest first, among images drawn from `both`."""
    first, second = (np.arange(min(drawn, count) + 1) for count in both[:2].tolist())
    third = drawn - first[:, None] - second  # what is left
    chosen = np.nonzero((third >= 0) & (third <= both[2]))
    return np.stack([*chosen, third[chosen]])


def _log_choices(of: int, taken: Any) -> Any:
    """Logarithm of the binomial coefficient."""
    return gammaln(of + 1) - gammaln(taken + 1) - gammaln(of - taken + 1)
