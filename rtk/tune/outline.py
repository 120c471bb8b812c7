"""What a sweep would do, without doing it: its trials, what each holds, and the images it is judged on."""

from __future__ import annotations

from typing import Any

from rtk.config.schema import RunConfig
from rtk.config.search_space import SearchSpace
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, trained_rows
from rtk.tune.check import check_space, epochs, open_data


def outline_sweep(space: SearchSpace, config: RunConfig) -> dict[str, Any]:
    """Make every check that a sweep makes before Ray starts, and describe it.

    Args:
        space: what is searched.
        config: of `base_config`.

    Returns:
        `objectives`, `trials`, `seeds` of each, `sampler`, `scheduler`, `epochs` of a trial, `keys` that are
        searched, `workers` of a trial, `resources` of each worker, and `images` by key of the recipe: `path`
        and number of `images`.

    Raises:
        ConfigError: space, recipe or images do not fit.
    """
    check_space(space, config)
    sets = open_data(space, config)
    return {
        "objectives": dict(space.objectives),
        "trials": space.trials,
        "seeds": list(range(config.seed, config.seed + space.replicates)),
        "sampler": space.sampler.name,
        "scheduler": space.scheduler.name,
        "epochs": epochs(config, sets.train),
        "keys": list(space.space),
        "workers": config.train.workers,
        "resources": space.resources.model_dump(),
        "images": _images(config, sets),
    }


def _images(config: RunConfig, sets: RunSets[ImageDataset]) -> dict[str, dict[str, Any]]:
    """The training set and those that trials are judged on; validation images may be held out of it."""
    used = {
        key: {"path": dataset.path, "images": dataset.rows}
        for key, dataset in sets.items()
        if key == "train" or key.startswith("validation")
    }
    rows = min(sets.train.rows, config.data.train_rows or sets.train.rows)
    kept = trained_rows(config, sets.train)
    used["train"]["images"] = kept
    return used if "validation" in used else used | {"validation": {"path": None, "images": rows - kept}}
