"""Every score of predictions, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rtk.scores import calibrated, gaussian, logits, neighbours, openmax, prototypes, shaping, sirc, subspace
from rtk.scores.hyperparameters import defaults_of


@dataclass(frozen=True)
class Score:
    """A score: larger = more trustworthy, more in-distribution.

    Attributes:
        name: key in `SCORES`.
        score: `score(logits, **hyper-parameters) -> (N,)` where there is nothing to fit, otherwise
            `score(predictions, fitted tensors, **hyper-parameters) -> (N,)`. Images are scored one by one.
        source: paper.
        fit: `fit(fit_data, **hyper-parameters) -> tensors by name`; None for scores of the logits alone.
        search: values that OpenOOD's automatic search tries, by hyper-parameter.
    """

    name: str
    score: Callable[..., Tensor]
    source: str
    fit: Callable[..., dict[str, Tensor]] | None = None
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def fit_defaults(self) -> dict[str, Any]:
        """Hyper-parameters that fitting uses, with their defaults."""
        return {} if self.fit is None else defaults_of(self.fit)

    @property
    def score_defaults(self) -> dict[str, Any]:
        """Hyper-parameters that scoring uses, with their defaults."""
        return defaults_of(self.score)

    @property
    def defaults(self) -> dict[str, Any]:
        """All hyper-parameters with their defaults."""
        return self.fit_defaults | self.score_defaults


_SHAPING_SEARCH = {"percentile": (65, 70, 75, 80, 85, 90, 95)}

_ROWS = (
    Score("msp", logits.msp, "Hendrycks & Gimpel, ICLR 2017, arXiv 1610.02136"),
    Score("max_logit", logits.max_logit, "Hendrycks et al., ICML 2022, arXiv 1911.11132"),
    Score(
        "energy",
        logits.energy,
        "Liu et al., NeurIPS 2020, arXiv 2010.03759",
        search={"temperature": (1, 10, 100, 1000)},
    ),
    Score("entropy", logits.entropy, "Shannon, 1948"),
    Score(
        "gen",
        logits.gen,
        "Liu et al., CVPR 2023",
        search={"gamma": (0.01, 0.1, 0.5, 1, 2, 5, 10), "m": (10, 50, 100, 200, 500, 1000)},
    ),
    Score("doctor_alpha", logits.doctor_alpha, "Granese et al., NeurIPS 2021, arXiv 2106.02395"),
    Score("doctor_beta", logits.doctor_beta, "Granese et al., NeurIPS 2021, arXiv 2106.02395"),
    Score(
        "odin_temperature",
        logits.odin_temperature,
        "Liang et al., ICLR 2018, arXiv 1706.02690",
        search={"temperature": (1, 10, 100, 1000)},
    ),
    Score("margin", logits.margin, "RAT_MisD, LogitDiff"),
    Score("soft_margin", logits.soft_margin, "RAT_MisD, SoftLogitDiff"),
    Score(
        "temperature_scaling",
        calibrated.temperature_scaling,
        "Guo et al., ICML 2017, arXiv 1706.04599",
        fit=calibrated.fit_temperature_scaling,
    ),
    Score("relu", calibrated.relu, "Dadalto et al., ICLR 2024, arXiv 2306.01710", fit=calibrated.fit_relu),
    Score("klm", calibrated.klm, "Hendrycks et al., ICML 2022, arXiv 1911.11132", fit=calibrated.fit_klm),
    Score(
        "openmax", openmax.openmax, "Bendale & Boult, CVPR 2016, arXiv 1511.06233", fit=openmax.fit_openmax
    ),
    Score("mds", gaussian.mds, "Lee et al., NeurIPS 2018, arXiv 1807.03888", fit=gaussian.fit_mds),
    Score("rmds", gaussian.rmds, "Ren et al., 2021, arXiv 2106.09022", fit=gaussian.fit_rmds),
    Score(
        "knn",
        neighbours.knn,
        "Sun et al., ICML 2022, arXiv 2204.06507",
        fit=neighbours.fit_knn,
        search={"k": (50, 100, 200, 500, 1000)},
    ),
    Score(
        "nnguide", neighbours.nnguide, "Park et al., ICCV 2023, arXiv 2309.14888", fit=neighbours.fit_nnguide
    ),
    Score("she", prototypes.she, "Zhang et al., ICLR 2023", fit=prototypes.fit_she),
    Score(
        "fdbd",
        prototypes.fdbd,
        "Liu & Qin, ICML 2024, arXiv 2312.11536",
        fit=prototypes.fit_fdbd,
        search={"normalizer": ("distance_to_mean", "feature_norm")},
    ),
    Score(
        "vim",
        subspace.vim,
        "Wang et al., CVPR 2022, arXiv 2203.10807",
        fit=subspace.fit_vim,
        search={"dim": (256, 1000)},
    ),
    Score(
        "residual", subspace.residual, "Wang et al., CVPR 2022, arXiv 2203.10807", fit=subspace.fit_residual
    ),
    Score("sirc", sirc.sirc, "Xia & Bouganis, ACCV 2022, arXiv 2207.07506", fit=sirc.fit_sirc),
    Score(
        "react",
        shaping.react,
        "Sun et al., NeurIPS 2021, arXiv 2111.12797",
        fit=shaping.fit_react,
        search={"percentile": (85, 90, 95, 99)},
    ),
    Score(
        "ash",
        shaping.ash,
        "Djurisic et al., ICLR 2023, arXiv 2209.09858",
        fit=shaping.fit_head,
        search=_SHAPING_SEARCH,
    ),
    Score(
        "scale",
        shaping.scale,
        "Xu et al., ICLR 2024, arXiv 2310.00227",
        fit=shaping.fit_head,
        search=_SHAPING_SEARCH,
    ),
    Score(
        "dice",
        shaping.dice,
        "Sun & Li, ECCV 2022, arXiv 2111.09805",
        fit=shaping.fit_dice,
        search={"percentile": (10, 30, 50, 70, 90)},
    ),
)

SCORES: dict[str, Score] = {row.name: row for row in _ROWS}

# The nine post-processors of SURE+'s tables (arXiv 2603.03903).
DEFAULT_SCORES = ("msp", "openmax", "mds", "gram", "react", "klm", "vim", "knn", "sirc")
