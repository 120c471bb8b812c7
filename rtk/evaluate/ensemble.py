"""From several trained runs to one that is their ensemble, which is evaluated and exported as any other."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rtk.config.data import GROUPS
from rtk.config.ensemble import Average
from rtk.config.errors import ConfigError
from rtk.config.schema import RunConfig
from rtk.data.sets.dataset import content_hash
from rtk.data.sets.of_run import open_configured
from rtk.evaluate.model import load_model
from rtk.models.ensemble import join_classifiers
from rtk.runs.checkpoints import has_checkpoint, numbered, resolve_checkpoint
from rtk.runs.data_record import ENVIRONMENT, DataRecord
from rtk.runs.ensemble import EnsembleRecord, Member, checkpoint_identity, read_ensemble
from rtk.runs.folder import RunFolder
from rtk.runs.names import free_folder, group_name
from rtk.runs.stored_checkpoints import pull_checkpoints, whole_or_gone
from rtk.runs.working_copy import place_of
from rtk.scores.selection import wanted_scores
from rtk.scores.table import DISAGREEMENT_SCORES
from rtk.tracking.status import note_status
from rtk.train.checkpoint import class_count, read_state
from rtk.train.saving import save_weights

# What every member must be told of an image alike, for they see the same pixels.
PIXELS = ("image_size", "crop_share", "interpolation", "exif", "jpeg")
ALIKE = (*(f"data.{key}" for key in PIXELS), "train.precision")
TESTED = ("test", "csid", *(f"{group}_ood" for group in GROUPS))


class Chosen(NamedTuple):
    """A checkpoint of a run that is to be a member."""

    run: RunFolder
    checkpoint: str

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return f"{self.run.name} ({self.checkpoint})"


def chosen_members(runs: Sequence[RunFolder], checkpoint: str, snapshots: bool) -> list[Chosen]:
    """Members of an ensemble: a checkpoint of each run, or every numbered one that it has kept.

    Raises:
        ConfigError: there are fewer than two, or one is there twice.
    """
    names = {
        run: [path.name for path in numbered(run.checkpoints)] if snapshots else [checkpoint] for run in runs
    }
    found = [Chosen(run, name) for run, own in names.items() for name in own]
    if len(found) < 2:
        got = ", ".join(one.label for one in found) or "none"
        raise ConfigError(
            f"--ensemble: got {got}, wanted two networks or more: several runs, a group of seeds, or with "
            "--snapshots the numbered checkpoints of a run"
        )
    return found


def open_ensemble(
    chosen: Sequence[Chosen], average: Average = "softmax", name: str | None = None
) -> RunFolder:
    """The run of an ensemble, beside its first member's; it is made where it is not there yet.

    It holds a copy of all weights, so that it stays what it is whatever becomes of its members' runs.

    Args:
        chosen: the members.
        average: what is averaged over them.
        name: of the run; None: made of the members' own, so that the same ones give the same run.

    Raises:
        ConfigError: members have other classes, see images otherwise or were trained on other images; or
            there is a run of that name that is another.
        CheckpointError: a member has no such checkpoint, or it is damaged.
    """
    configs = [one.run.config() for one in chosen]
    check_alike(chosen, configs)
    members = tuple(_describe(one, config) for one, config in zip(chosen, configs, strict=True))
    if len({member.sha256 for member in members}) < len(members):
        raise ConfigError("--ensemble: got the same checkpoint twice, wanted different networks")
    record = EnsembleRecord(average, members, _share_holdout(configs))
    parent = chosen[0].run.path.parent
    run = RunFolder(parent / (name or _name_of(chosen, configs[0], record)))
    pull_checkpoints(run.checkpoints)
    if run.path.exists():
        if read_ensemble(run.path) != record:
            free_folder(run.name, place_of(parent), way_out="wanted another --name for these members")
        if has_checkpoint(run.checkpoints / "best"):
            return run
        shutil.rmtree(run.path)  # what a process has left that was ended while it wrote
    return _write(run.name, chosen, configs, record)


def check_alike(chosen: Sequence[Chosen], configs: Sequence[RunConfig]) -> None:
    """Refuse members whose logits or images are not those of the first.

    Raises:
        ConfigError: naming what differs, and both values.
    """
    nested = next((one for one in chosen if read_ensemble(one.run.path) is not None), None)
    if nested is not None:
        raise ConfigError(f"--ensemble: {nested.run.name} is an ensemble itself, wanted single networks")
    records = [DataRecord.read(one.run.path) for one in chosen]
    counts = [class_count(one.run.checkpoints / one.checkpoint) for one in chosen]
    for other in range(1, len(chosen)):
        for about, first, second in _compared(*((records[n], counts[n], configs[n]) for n in (0, other))):
            if first != second:
                raise ConfigError(
                    f"--ensemble: {chosen[other].label} has {about} {second!r}, but {chosen[0].label} has "
                    f"{first!r}; wanted the same of all members"
                )


Known = tuple[DataRecord, int, RunConfig]


def _compared(first: Known, second: Known) -> Iterator[tuple[str, Any, Any]]:
    """What members are compared by, where it is known of both."""
    yield "a number of classes of", first[1], second[1]
    for number, names in enumerate(zip(first[0].classes, second[0].classes, strict=False)):
        yield f"as class {number}", names[0], names[1]
    for key in ALIKE:
        yield key, *_of_both(key, first[2], second[2])
    for key in ("train", "validation"):
        one, other = first[0].hashes.get(key), second[0].hashes.get(key)
        if None not in (one, other):
            yield f"images of data.{key} with the content hash", one, other


def _of_both(key: str, first: RunConfig, second: RunConfig) -> tuple[Any, Any]:
    """Values of a dotted key in two configs."""
    section, _, name = key.partition(".")
    return getattr(getattr(first, section), name), getattr(getattr(second, section), name)


def check_same_sets(chosen: Sequence[Chosen], configs: Sequence[RunConfig]) -> None:
    """Refuse members that are configured to be tested on other images than the first.

    Args:
        chosen: the members.
        configs: of `evaluation_config` of each, with the same options.

    Raises:
        ConfigError: naming the set.
    """
    first = _tested(configs[0])
    for one, config in zip(chosen[1:], configs[1:], strict=True):
        own = _tested(config)
        for key in {**first, **own}:
            paths = (first.get(key), own.get(key))
            if paths[0] != paths[1] and _contents(key, paths[0]) != _contents(key, paths[1]):
                raise ConfigError(
                    f"--ensemble: data.{key} is {paths[1]!r} in {one.label}, but {paths[0]!r} in "
                    f"{chosen[0].label}; wanted the same test sets (--suite, --test, --ood set them for all)"
                )


def _tested(config: RunConfig) -> dict[str, str]:
    """Paths of the test sets by key below `data`."""
    found: dict[str, str] = {}
    for key in TESTED:
        value = getattr(config.data, key)
        found |= (
            {f"{key}.{name}": path for name, path in value.items()}
            if isinstance(value, Mapping)
            else ({key: value} if value else {})
        )
    return found


def _contents(key: str, path: str | None) -> str | None:
    return None if path is None else content_hash(open_configured(path, f"data.{key}"))


def check_ensemble(run: RunFolder, config: RunConfig) -> None:
    """Refuse scores of an ensemble for one network, and thresholds from images that members were trained on.

    Without thresholds it is only said that members have held out different images: scores are fitted on some
    that others were trained on, but what is measured is others.

    Raises:
        ConfigError: see above.
    """
    record = read_ensemble(run.path)
    if record is None:
        alone = [name for name in DISAGREEMENT_SCORES if name in wanted_scores(config.evaluate)]
        if alone:
            raise ConfigError(
                f"evaluate.scores: got {alone[0]!r} of one network, wanted an ensemble (rtk evaluate RUN RUN "
                "--ensemble): it says how much members disagree"
            )
        return
    if record.shared_holdout or config.data.validation != run.config().data.validation:
        return
    if config.evaluate.risk is not None and config.data.calibration is None:
        raise ConfigError(
            "evaluate.risk: members of the ensemble have held out different images, so that thresholds would "
            "be chosen on images that some were trained on; wanted data.calibration=PATH, "
            "data.validation=PATH, or members trained with one data.validation_seed"
        )
    print(
        "validation: members of the ensemble have held out different images, so that scores are fitted on "
        "some that others were trained on (data.validation_seed=0 in training holds out the same for all)",
        file=sys.stderr,
        flush=True,
    )


def _describe(one: Chosen, config: RunConfig) -> Member:
    folder = resolve_checkpoint(one.run.checkpoints / one.checkpoint)
    model = config.model.model_copy(update={"weights": None}).model_dump(mode="json")
    step = int(read_state(folder)["step"])
    return Member(one.run.name, one.run.place, one.checkpoint, checkpoint_identity(folder), step, model)


def _share_holdout(configs: Sequence[RunConfig]) -> bool:
    """Whether all members have held out the same images, given the same training images."""
    held = set()
    for config in configs:
        seed = config.seed if config.data.validation_seed is None else config.data.validation_seed
        apart = config.data.validation is not None
        held.add("a set" if apart else (seed, config.data.validation_fraction, config.data.train_rows))
    return len(held) == 1


def _name_of(chosen: Sequence[Chosen], config: RunConfig, record: EnsembleRecord) -> str:
    """`{group or recipe}-ensemble-{hash of the members}`."""
    groups = {group_name(one.run.name, one.run.config().seed) for one in chosen}
    runs = {one.run.name for one in chosen}
    shared = groups if len(runs) > 1 else runs
    base = next(iter(shared)) if len(shared) == 1 else None
    identity = [[member.sha256, member.checkpoint] for member in record.members]
    digest = hashlib.sha256(json.dumps([record.average, identity]).encode()).hexdigest()
    return f"{base or config.name}-ensemble-{digest[:8]}"


def _write(
    name: str, chosen: Sequence[Chosen], configs: Sequence[RunConfig], record: EnsembleRecord
) -> RunFolder:
    """The folder, complete or not there at all."""
    members = [load_model(one.run, one.checkpoint) for one in chosen]
    run = RunFolder.create(_config_of(chosen, configs), name)
    with whole_or_gone(run.path):
        run.write_json(ENVIRONMENT, _environment_of([one.run for one in chosen]))
        record.write(run.path)
        states = [read_state(one.run.checkpoints / one.checkpoint) for one in chosen]
        step = max(int(state["step"]) for state in states)
        progress = {"step": step, "num_classes": states[0]["num_classes"], "metrics": None}
        with torch.no_grad():
            save_weights(run.checkpoints / "best", join_classifiers(members, record.average), progress)
        note_status(run, "FINISHED", state="ensemble")
    return run


def _config_of(chosen: Sequence[Chosen], configs: Sequence[RunConfig]) -> RunConfig:
    """The first member's config, with the scores of disagreement among those that are measured."""
    first, scores = configs[0], configs[0].evaluate.scores
    own = scores if isinstance(scores, Mapping) else dict.fromkeys(scores)
    both = [*own, *(name for name in DISAGREEMENT_SCORES if name not in own)]
    wanted = {name: scores.get(name, {}) for name in both} if isinstance(scores, Mapping) else tuple(both)
    plugins = {path.rpartition("/")[2]: path for config in reversed(configs) for path in config.plugins}
    seed = first.seed if first.data.validation_seed is None else first.data.validation_seed
    return first.model_copy(
        update={
            "output": place_of(chosen[0].run.path.parent),
            "plugins": type(first.plugins)(plugins.values()),
            "evaluate": first.evaluate.model_copy(update={"scores": wanted}),
            "data": first.data.model_copy(update={"validation_seed": seed}),
        }
    )


def _environment_of(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """What is known of the first member's data, and every member's plug-ins."""
    found = [run.read_json(ENVIRONMENT) or {} for run in runs]
    plugins = {name: sha256 for one in reversed(found) for name, sha256 in one.get("plugins", {}).items()}
    return {**found[0], **({"plugins": plugins} if plugins else {})}
