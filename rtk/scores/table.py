"""Every score of predictions, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from rtk.scores import (
    calibrated,
    gaussian,
    gradients,
    gram,
    logits,
    minimal,
    neighbours,
    openmax,
    prototypes,
    radius,
    shaping,
    sirc,
    subspace,
)
from rtk.scores.hyperparameters import defaults_of


@dataclass(frozen=True)
class Score:
    """A score: larger = more trustworthy, more in-distribution.

    There are three shapes, told apart by `inputs`; each returns (N,), every image for itself:

    - "logits": `score(logits, **hyper-parameters)`, nothing to fit;
    - "features": `score(predictions, fitted tensors, **hyper-parameters)`, after
      `fit(fit_data, **hyper-parameters) -> tensors by name`;
    - "images": `score(model, images, **hyper-parameters)`, which runs the model. Gram alone of these is
      fitted, on a stream of batches (`gram.fit_gram`), and takes its tensors third. An evaluation computes
      these while it predicts, with their defaults: there is nothing to search.

    Attributes:
        name: key in `SCORES`.
        score: as above.
        source: paper.
        fit: as above; None where there is nothing to fit.
        inputs: what is scored.
        search: values that OpenOOD's automatic search tries, by hyper-parameter.
        rat_search: values that RAT's protocol tries, where it tunes the score.
    """

    name: str
    score: Callable[..., Tensor]
    source: str
    fit: Callable[..., dict[str, Tensor]] | None = None
    inputs: Literal["logits", "features", "images"] = "logits"
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rat_search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

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


_RAT_TEMPERATURES = {
    "temperature": (0.2, 0.4, 0.6, 0.8, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 2, 2.5, 3, 100, 1000),
}
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
    Score(
        "doctor_alpha",
        logits.doctor_alpha,
        "Granese et al., NeurIPS 2021, arXiv 2106.02395",
        rat_search=_RAT_TEMPERATURES,
    ),
    Score(
        "doctor_beta",
        logits.doctor_beta,
        "Granese et al., NeurIPS 2021, arXiv 2106.02395",
        rat_search=_RAT_TEMPERATURES,
    ),
    Score(
        "odin_temperature",
        logits.odin_temperature,
        "Liang et al., ICLR 2018, arXiv 1706.02690",
        search={"temperature": (1, 10, 100, 1000)},
        rat_search=_RAT_TEMPERATURES,
    ),
    Score("margin", logits.margin, "RAT_MisD, LogitDiff"),
    Score("soft_margin", logits.soft_margin, "RAT_MisD, SoftLogitDiff"),
    Score(
        "temperature_scaling",
        calibrated.temperature_scaling,
        "Guo et al., ICML 2017, arXiv 1706.04599",
        fit=calibrated.fit_temperature_scaling,
        inputs="features",
    ),
    Score(
        "relu",
        calibrated.relu,
        "Dadalto et al., ICLR 2024, arXiv 2306.01710",
        fit=calibrated.fit_relu,
        inputs="features",
        rat_search=_RAT_TEMPERATURES,
    ),
    Score(
        "klm",
        calibrated.klm,
        "Hendrycks et al., ICML 2022, arXiv 1911.11132",
        fit=calibrated.fit_klm,
        inputs="features",
    ),
    Score(
        "openmax",
        openmax.openmax,
        "Bendale & Boult, CVPR 2016, arXiv 1511.06233",
        fit=openmax.fit_openmax,
        inputs="features",
    ),
    Score(
        "mds",
        gaussian.mds,
        "Lee et al., NeurIPS 2018, arXiv 1807.03888",
        fit=gaussian.fit_mds,
        inputs="features",
    ),
    Score(
        "rmds", gaussian.rmds, "Ren et al., 2021, arXiv 2106.09022", fit=gaussian.fit_rmds, inputs="features"
    ),
    Score(
        "knn",
        neighbours.knn,
        "Sun et al., ICML 2022, arXiv 2204.06507",
        fit=neighbours.fit_knn,
        inputs="features",
        search={"k": (50, 100, 200, 500, 1000)},
    ),
    Score(
        "nnguide",
        neighbours.nnguide,
        "Park et al., ICCV 2023, arXiv 2309.14888",
        fit=neighbours.fit_nnguide,
        inputs="features",
    ),
    Score("she", prototypes.she, "Zhang et al., ICLR 2023", fit=prototypes.fit_she, inputs="features"),
    Score(
        "fdbd",
        prototypes.fdbd,
        "Liu & Qin, ICML 2024, arXiv 2312.11536",
        fit=prototypes.fit_fdbd,
        inputs="features",
        search={"normalizer": ("distance_to_mean", "feature_norm")},
    ),
    Score(
        "vim",
        subspace.vim,
        "Wang et al., CVPR 2022, arXiv 2203.10807",
        fit=subspace.fit_vim,
        inputs="features",
        search={"dim": (256, 1000)},
    ),
    Score(
        "residual",
        subspace.residual,
        "Wang et al., CVPR 2022, arXiv 2203.10807",
        fit=subspace.fit_residual,
        inputs="features",
    ),
    Score(
        "sirc", sirc.sirc, "Xia & Bouganis, ACCV 2022, arXiv 2207.07506", fit=sirc.fit_sirc, inputs="features"
    ),
    Score(
        "react",
        shaping.react,
        "Sun et al., NeurIPS 2021, arXiv 2111.12797",
        fit=shaping.fit_react,
        inputs="features",
        search={"percentile": (85, 90, 95, 99)},
    ),
    Score(
        "ash",
        shaping.ash,
        "Djurisic et al., ICLR 2023, arXiv 2209.09858",
        fit=shaping.fit_head,
        inputs="features",
        search=_SHAPING_SEARCH,
    ),
    Score(
        "scale",
        shaping.scale,
        "Xu et al., ICLR 2024, arXiv 2310.00227",
        fit=shaping.fit_head,
        inputs="features",
        search=_SHAPING_SEARCH,
    ),
    Score(
        "dice",
        shaping.dice,
        "Sun & Li, ECCV 2022, arXiv 2111.09805",
        fit=shaping.fit_dice,
        inputs="features",
        search={"percentile": (10, 30, 50, 70, 90)},
    ),
    Score(
        "odin",
        gradients.odin,
        "Liang et al., ICLR 2018, arXiv 1706.02690",
        inputs="images",
    ),
    Score("rr_fast", gradients.rr_fast, "RAT, arXiv 2503.14783", inputs="images"),
    Score("rr_bs", radius.rr_bs, "RAT, arXiv 2503.14783", inputs="images"),
    Score(
        "deepfool",
        minimal.deepfool,
        "Moosavi-Dezfooli et al., CVPR 2016, arXiv 1511.04599",
        inputs="images",
    ),
    Score("fab", minimal.fab, "Croce & Hein, ICML 2020, arXiv 1907.02044", inputs="images"),
    Score(
        "gram",
        gram.gram,
        "Sastry & Oore, ICML 2020, arXiv 1912.10512",
        fit=gram.fit_gram,
        inputs="images",
    ),
)

SCORES: dict[str, Score] = {row.name: row for row in _ROWS}

# The nine post-processors of SURE+'s tables (arXiv 2603.03903).
DEFAULT_SCORES = ("msp", "openmax", "mds", "gram", "react", "klm", "vim", "knn", "sirc")
