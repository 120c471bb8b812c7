"""Search spaces: YAML that maps a recipe's dotted keys to distributions, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError, unknown
from rtk.config.kinds import wants_text
from rtk.config.load import flatten, load_config, override_config
from rtk.config.messages import one_line
from rtk.config.metric_names import VALIDATION_METRICS
from rtk.config.overrides import override_text
from rtk.config.schema import RunConfig
from rtk.config.sections import PositiveFloat, PositiveInt, Section
from rtk.config.yaml_files import YamlPath, read_mapping

KINDS = ("uniform", "loguniform", "quniform", "randint", "choice")
Scalar = bool | int | float | str | None
RECIPE_POINT = "recipe"


class Parameter(Section):
    """The distribution of one key: exactly one of the kinds; bounds are inclusive.

    `when: {other.key: [values]}` makes it conditional: elsewhere the key keeps the recipe's value.
    """

    uniform: tuple[float, float] | None = Field(None, description="[low, high]")
    loguniform: tuple[PositiveFloat, PositiveFloat] | None = Field(None, description="[low, high] above 0")
    quniform: tuple[float, float, PositiveFloat] | None = Field(None, description="[low, high, step]")
    randint: tuple[int, int] | None = Field(None, description="[low, high], both included")
    choice: tuple[Scalar, ...] | None = Field(None, min_length=1, description="values to choose from")
    when: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict, description="other key: its values")

    @model_validator(mode="after")
    def _one_kind_in_order(self) -> Parameter:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"got {' and '.join(kinds) or 'no distribution'}, wanted one of {', '.join(KINDS)}"
            )
        if self.choice is None:
            low, high = self.bounds
            if not low < high:
                raise ValueError(
                    f"{kinds[0]}: got [{low:g}, {high:g}], wanted the lower bound below the upper"
                )
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value of a numeric kind."""
        low, high, *_ = self.uniform or self.loguniform or self.quniform or self.randint or (0, 0)
        return low, high

    def probes(self) -> tuple[Scalar, ...]:
        """Values that must fit the schema: every choice, or both bounds and a value between them."""
        if self.choice is not None:
            return self.choice
        low, high = self.bounds
        if self.randint is not None:
            return low, high
        # Between the bounds of a continuous kind lie fractions, which a key for whole numbers refuses.
        return (
            low,
            high,
            low + (high - low) * 0.3819660112501051 if self.quniform is None else low + self.quniform[2],
        )

    def contains(self, value: Any) -> bool:
        """Whether a value can be drawn."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.bounds
        return isinstance(value, int | float) and low <= value <= high

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the conditions hold, given the values of the keys they name."""
        return all(values.get(key) in allowed for key, allowed in self.when.items())


class SchedulerConfig(Section):
    """Which trials are stopped early (Ray Tune)."""

    name: Literal["asha", "hyperband", "pbt", "none"] = Field(
        "asha", description="asha and hyperband stop trials; pbt lets them go on from better ones' weights"
    )
    grace: PositiveInt = Field(1, description="asha: epochs before a trial may be stopped")
    reduction: int = Field(3, ge=2, description="one trial in this many goes on at each rung")
    interval: PositiveInt = Field(1, description="pbt: epochs after which trials are compared")
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="pbt: share of trials that go on from the weights of the best share"
    )


class SamplerConfig(Section):
    """How new values are proposed (Optuna)."""

    name: Literal["tpe", "gp", "nsga2", "random"] = Field("tpe", description="Optuna's sampler")
    seed: int = Field(0, ge=0, lt=2**63, description="of the sampler's draws")
    startup: PositiveInt = Field(10, description="tpe, gp: random trials before the model is used")
    population: PositiveInt = Field(20, description="nsga2: size of a generation")


class ResourcesConfig(Section):
    """What one worker of a trial holds while it runs."""

    cpu: PositiveFloat = Field(1.0, description="CPUs per worker")
    gpu: float | None = Field(
        None, ge=0, description="GPUs per worker, fractions allowed; null: 1 if there are any"
    )


class SearchSpace(Section):
    """A whole search: what is varied, what is wanted, how many trials, how they are run."""

    objectives: dict[str, Literal["min", "max"]] = Field(
        min_length=1, description="validation metric: direction; the first one steers the scheduler"
    )
    trials: PositiveInt = Field(32, description="number of trials")
    replicates: PositiveInt = Field(
        1,
        description="seeds that each trial is trained with, from the recipe's on: the objective is their "
        "mean; asha and hyperband judge trials by the first seed, before the others are trained",
    )
    concurrent: PositiveInt | None = Field(None, description="trials at a time; null: as resources allow")
    max_restarts: int = Field(
        2, ge=0, description="times a trial goes on from its checkpoint if its process dies"
    )
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    fixed: dict[str, Any] = Field(default_factory=dict, description="values of all trials, over the recipe's")
    warm_starts: tuple[Literal["recipe"] | dict[str, Scalar], ...] = Field(
        (), description="points to try first; `recipe` stands for the recipe's own values"
    )
    space: dict[str, Parameter] = Field(min_length=1, description="key of a recipe: its distribution")

    @field_validator("objectives")
    @classmethod
    def _on_validation_sets(cls, objectives: dict[str, str]) -> dict[str, str]:
        for name in objectives:
            _check_metric(name)
        return objectives

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives; the first one steers the scheduler."""
        return list(self.objectives)


def _check_metric(name: str) -> None:
    if name in VALIDATION_METRICS:
        return
    if name.startswith("test/"):
        raise ValueError(f"{name} is measured on test sets; a sweep may only see validation sets (val/...)")
    raise ValueError(unknown("metric", name, VALIDATION_METRICS))


def load_space(path: str | Path, changes: Mapping[str, Any] | None = None) -> SearchSpace:
    """Read a search space.

    Args:
        path: YAML file.
        changes: other values for some of its dotted keys (`trials`, `sampler.name`).

    Raises:
        ConfigError: naming the file, the key, what was got and what was wanted.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"search space: got {str(path)!r}, wanted a YAML file such as search_spaces/small.yaml"
        )
    tree = read_mapping(path, _wants_text)
    parse_space(tree, str(path))  # before its parts are taken for what they should be
    for key, value in (changes or {}).items():
        section, _, leaf = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return parse_space(tree, str(path))


def _wants_text(path: YamlPath) -> bool:
    """Whether text alone is wanted at a path of a search space: values are those of a recipe's keys."""
    match path:
        case ("space", str(key), "choice", int()) | ("space", _, "when", str(key), int()):
            return wants_text(RunConfig, (key,))
        case ("warm_starts", int(), str(key)):
            return wants_text(RunConfig, (key,))
        case ("fixed", *names):
            return wants_text(RunConfig, names)
    return wants_text(SearchSpace, path)


def parse_space(tree: Mapping[str, Any], where: str) -> SearchSpace:
    """Validate a plain mapping into a `SearchSpace`; `where` names it in errors."""
    try:
        return SearchSpace.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {one_line(error, SearchSpace)}") from None


def base_config(space: SearchSpace, recipe: str, overrides: Iterable[str] = ()) -> RunConfig:
    """What all trials start from: recipe < `fixed` < overrides.

    Where the objectives need OOD validation sets of a group and the recipe names none, these are
    `data.validation_ood`. The seeds of a trial hold the same images out.

    Raises:
        ConfigError: also where one of them sets a key that is searched.
    """
    fixed = [override_text(key, value) for key, value in flatten(space.fixed)]
    given = [*(("fixed", text) for text in fixed), *(("override", text) for text in overrides)]
    for kind, text in given:
        key = text.partition("=")[0]
        if key in space.space:
            raise ConfigError(
                f"{kind} {text!r}: {key} is searched, wanted it in the search space or here, not both"
            )
    config = load_config(recipe, [text for _, text in given])
    values = _validation_ood(space, config) | _validation_seed(space, config)
    return override_config(config, values) if values else config


def _validation_ood(space: SearchSpace, config: RunConfig) -> dict[str, Any]:
    """Values that let `data.validation_ood` stand for the validation sets that the objectives lack."""
    if config.data.validation_ood is None:
        return {}
    keys = (f"validation_{group}_ood" for group in GROUPS if _measures(space, group))
    sets = {"validation_ood": config.data.validation_ood}
    return {f"data.{key}": sets for key in keys if not getattr(config.data, key)}


def _validation_seed(space: SearchSpace, config: RunConfig) -> dict[str, Any]:
    """The value with which all seeds of a trial hold the same images out."""
    own = config.data.validation is not None or config.data.validation_seed is not None
    return {} if own or space.replicates == 1 else {"data.validation_seed": config.seed}


def _measures(space: SearchSpace, group: str) -> bool:
    return any(name.endswith(f"_{group}") for name in space.metrics)


def points(space: SearchSpace, config: RunConfig) -> Iterator[dict[str, Any]]:
    """Warm starts as values by key; the recipe's own values are brought within the bounds."""
    leaves = dict(flatten(config.model_dump(mode="json")))
    for point in space.warm_starts:
        if point == RECIPE_POINT:
            given = {key: (parameter, leaves.get(key)) for key, parameter in space.space.items()}
            yield {
                key: nearest(parameter, value)
                for key, (parameter, value) in given.items()
                if value is not None or parameter.choice is not None  # what is left out is drawn
            }
        else:
            assert isinstance(point, dict)
            yield dict(point)


def nearest(parameter: Parameter, value: Any) -> Any:
    """The value that a distribution can draw which is closest to the given one."""
    if parameter.choice is not None:
        return value if value in parameter.choice else parameter.choice[0]
    low, high = parameter.bounds
    if parameter.quniform is not None:
        step = parameter.quniform[2]
        last = math.floor((high - low) / step + 1e-9)
        return low + min(max(round((value - low) / step), 0), last) * step
    return min(max(value, low), high)
