"""Which images an evaluation reads: a run's config with what the command line changes, and its sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rtk.config.changes import When, changing_keys, may_change
from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError
from rtk.config.load import build_config, flatten, override_config
from rtk.config.overrides import parse_override
from rtk.config.schema import RunConfig
from rtk.data.decode.pipeline import Selection, evaluation_selection
from rtk.data.prepare.on_the_fly import prepared
from rtk.data.sets.builtin import is_missing
from rtk.data.sets.dataset import ImageDataset, content_hash
from rtk.data.sets.of_run import RunSets, blamed_on, configured_paths, open_sets
from rtk.data.sets.overlap import first_overlap
from rtk.evaluate.suites import OODSet, load_suite
from rtk.runs.data_record import NO_RECORD, DataRecord
from rtk.runs.folder import RunFolder
from rtk.runs.origin import is_imported
from rtk.scores.selection import image_scores

ID_SETS = ("train", "validation", "test")
CSID = "csid"
OOD_SETS = tuple(f"{group}_ood" for group in GROUPS)
VALIDATION_OOD = "validation_ood"
CALIBRATION = "calibration"


def evaluation_config(
    run: RunFolder,
    overrides: Sequence[str] = (),
    suite: str | None = None,
    ood: Sequence[OODSet] = (),
    allow_missing: bool = False,
) -> RunConfig:
    """The config that a run is evaluated with: that of its training < a suite's sets < overrides, more sets.

    Where a set is raw images, such as a folder of photographs, its path becomes that of a prepared copy.

    Args:
        run: a trained run.
        overrides: `a.b=value` of `evaluate` and of the sets that are tested and tuned on.
        suite: name or path of a suite, whose OOD sets replace the recipe's.
        ood: OOD test sets beside those; one of a known name replaces it.
        allow_missing: leave out the sets of the suite that are not there.

    Raises:
        ConfigError: a set or the suite is missing, an override changes what was trained, or two of `ood` have
            one name.
    """
    tree = run.config().model_dump(mode="json")
    if suite is not None:
        tree["data"] |= _suite_data(suite, allow_missing)
    config = override_config(build_config(tree), dict(map(parse_override, overrides)))
    tree = config.model_dump(mode="json")
    when = When.EVALUATION | When.IMPORTED if is_imported(run.path) else When.EVALUATION
    _refuse_changes(run.config().model_dump(mode="json"), tree, DataRecord.read(run.path), when)
    names = [entry.name for entry in ood]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"--ood: got {twice[0]!r} twice, wanted a name of its own for each set")
    for entry in ood:
        for group in OOD_SETS:
            tree["data"][group].pop(entry.name, None)
        tree["data"][f"{entry.group}_ood"][entry.name] = entry.path
    return build_config(tree | {"data": _prepared(tree["data"])})


def _prepared(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `data`, the sets that are only tested or tuned on prepared where they are raw images."""

    def path_of(key: str, path: str | None) -> str | None:
        with blamed_on(f"data.{key}"):
            return path and prepared(path, labelled=key.partition(".")[0] in ("test", CSID, CALIBRATION))

    sets = {
        group: {name: path_of(f"{group}.{name}", path) for name, path in data[group].items()}
        for group in (CSID, *OOD_SETS)
    }
    alone = ("test", VALIDATION_OOD, CALIBRATION)
    return {**data, **sets, **{key: path_of(key, data[key]) for key in alone}}


def _suite_data(suite: str, allow_missing: bool) -> dict[str, Any]:
    """The keys of `data` that a suite sets."""
    found = load_suite(suite)
    every = [*found.sets, *(OODSet(name, CSID, path) for name, path in found.csid.items())]
    absent = [entry for entry in every if is_missing(entry.path)]
    if absent and not allow_missing:
        names = ", ".join(f"{entry.name} ({entry.path})" for entry in absent)
        raise ConfigError(
            f"--suite {found.name}: {len(absent)} of {len(every)} sets are missing: {names}; "
            "--allow-missing evaluates on the others"
        )
    present = [entry for entry in found.sets if entry not in absent]
    if not present:
        raise ConfigError(f"--suite {found.name}: none of its {len(found.sets)} sets is there")
    data: dict[str, Any] = {
        f"{group}_ood": {entry.name: entry.path for entry in present if entry.group == group}
        for group in GROUPS
    }
    data[CSID] = {entry.name: entry.path for entry in every[len(found.sets) :] if entry not in absent}
    if found.test is not None:
        data["test"] = found.test
    if found.validation_ood is not None and not (allow_missing and is_missing(found.validation_ood)):
        data[VALIDATION_OOD] = found.validation_ood
    return data


def _refuse_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], record: DataRecord, when: When
) -> None:
    old, new = dict(flatten(before)), dict(flatten(after))
    changed = [key for key in new if key in old and old[key] != new[key]]
    kept = [key for key in changed if not may_change(key, when)]
    refused = [key for key in kept if not record.is_moved(key, new[key])]
    if "data.validation" in changed and new["data.validation"] is None and not when & When.IMPORTED:
        raise ConfigError(
            f"data.validation: {old['data.validation']!r} -> None: the run held no training images out, so "
            "that scores would be tuned on images it was trained on"
        )
    if refused:
        allowed = ", ".join(changing_keys(when))
        raise ConfigError(
            f"{refused[0]}: {old[refused[0]]!r} -> {new[refused[0]]!r} would need another training; "
            f"an evaluation may change {allowed}"
        )


def binding_record(run: RunFolder, config: RunConfig) -> DataRecord:
    """The record of a run, with the hashes of those sets that its evaluation takes over from the training."""
    record = DataRecord.read(run.path)
    before = dict(configured_paths(run.config().data).items())
    after = dict(configured_paths(config.data).items())
    hashes = {
        key: value
        for key, value in record.hashes.items()
        if not may_change(f"data.{key}", When.EVALUATION) or before.get(key) == after.get(key)
    }
    return replace(record, hashes=hashes)


def configured_ood(config: RunConfig) -> dict[str, OODSet]:
    """OOD test sets of a config, by name."""
    return {
        name: OODSet(name, group, path)
        for group in GROUPS
        for name, path in getattr(config.data, f"{group}_ood").items()
    }


def evaluation_selections(
    config: RunConfig, rows: int | None = None, record: DataRecord = NO_RECORD
) -> dict[str, Selection]:
    """Sets that an evaluation predicts: `train` (to fit scores), `validation`, `test`, `csid`, the OOD sets.

    `validation_ood` and `calibration` are among them where something is tuned on them. `csid` and OOD sets go
    by their own names.

    Args:
        config: of `evaluation_config`.
        rows: number of images to use of every set, the first ones; None: all.
        record: of `binding_record`.

    Raises:
        ConfigError: a set is missing, is not the one trained on or has other classes, its name is taken, or
            images to tune on are images to test on.
    """
    if config.data.test is None:
        raise ConfigError("data.test: got null, wanted the in-distribution test set (--test PATH)")
    taken = (*ID_SETS, VALIDATION_OOD, CALIBRATION)
    for key, names in (("--ood", configured_ood(config)), ("data.csid", config.data.csid)):
        reserved = [name for name in names if name in taken]
        if reserved:
            raise ConfigError(f"{key}: the name {reserved[0]!r} is taken, wanted another")
        taken = (*taken, *names)
    sets = open_sets(config, (*ID_SETS, CSID, *OOD_SETS, *_tuning_sets(config)), record)
    _check_validation_apart(sets)
    selections = {key: evaluation_selection(config.data, dataset, rows) for key, dataset in sets.items()}
    selections["train"] = evaluation_selection(config.data, sets.train, rows or config.data.train_rows)
    return {key.rpartition(".")[2]: selection for key, selection in selections.items()}


def _tuning_sets(config: RunConfig) -> tuple[str, ...]:
    """`validation_ood` and `calibration` where something is tuned on them.

    Raises:
        ConfigError: the automatic search, or the choice of thresholds, has no images to be made on.
    """
    settings = config.evaluate
    of_images = image_scores((settings.confidence, settings.ood_score))
    if settings.risk is not None and of_images and not (config.data.validation or config.data.calibration):
        raise ConfigError(
            "data.validation: got null, wanted images to choose thresholds on (or data.calibration), for "
            f"{of_images[0]} runs the model and is not computed for training images"
        )
    if settings.protocol == "rat_splits" and settings.bootstrap:
        raise ConfigError(
            "evaluate.bootstrap: got resamples with evaluate.protocol=rat_splits, whose figures have the "
            "spread over its splits; wanted 0"
        )
    if settings.protocol == "aps" and config.data.validation_ood is None:
        raise ConfigError(
            "data.validation_ood: got null, wanted OOD images that evaluate.protocol=aps can tune on"
        )
    if settings.risk is not None:
        return (VALIDATION_OOD, CALIBRATION)
    return (VALIDATION_OOD,) if settings.protocol == "aps" or settings.rule != "rectangle" else ()


def _check_validation_apart(sets: RunSets[ImageDataset]) -> None:
    """What is trained and tuned on must not be tested on: neither the same images nor some of them.

    Nor must thresholds be chosen on what is trained on, of which the model is surer than of images to come.
    """
    tuned = {key: one for key, one in sets.items() if key in ("validation", VALIDATION_OOD, CALIBRATION)}
    used = {**tuned, "train": sets.train}
    tested = {key.rpartition(".")[2]: one for key, one in sets.items() if key not in used}
    found = first_overlap(used, tested)
    if found is not None:
        name, test, share = found
        raise ConfigError(
            f"data.{name}: got images of the test set {test!r} ({share:.0%} of the smaller set; "
            f"{used[name].path}), wanted images that nothing is tested on"
        )
    trained = {} if sets.calibration is None else {CALIBRATION: sets.calibration}
    found = first_overlap(trained, {"train": sets.train})
    if found is not None:
        raise ConfigError(
            f"data.calibration: got images of the training set ({found[2]:.0%} of the smaller set), wanted "
            "images that nothing is trained on; without data.calibration those held out are taken"
        )
    if sets.validation is not None and content_hash(sets.validation) == content_hash(sets.train):
        raise ConfigError(
            "data.validation: got the training images, wanted images that nothing is trained on"
        )
