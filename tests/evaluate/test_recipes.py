"""Every shipped recipe, with the suite of its data, up to the first images that its evaluation predicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.config.load import load_config, shipped_recipes
from rtk.data.decode.pipeline import decode_block, encoded_blocks
from rtk.data.sets.builtin import PREFIX
from rtk.data.sets.of_run import configured_paths
from rtk.evaluate.run_protocol import PROTOCOLS
from rtk.evaluate.sets import evaluation_selections
from rtk.evaluate.suites import load_suite, shipped_suites
from rtk.scores import SCORES
from rtk.scores.selection import image_columns, wanted_scores
from tests.data.conftest import encode, random_pixels

CLASSES = ["apple", "bear", "chair"]
ROWS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


def make_set(path: str, first: int) -> None:
    """Write six JPEGs of three classes where a data set is wanted, a file or a folder."""
    file = Path(path) if path.endswith(".parquet") else Path(path) / "all.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = range(first, first + ROWS)
    images = [encode(random_pixels(number, 30, 40), "JPEG") for number in ids]
    labels = [number % len(CLASSES) for number in ids]
    pq.write_table(pa.table({"image": images, "label": labels, "sample_id": list(ids)}), file)
    (file.parent / "classes.json").write_text(json.dumps({"classes": CLASSES}))


def suite_overrides(recipe: str) -> Iterator[str]:
    """The OOD sets of the suite that is called as the data of a recipe."""
    for name in set(recipe.split("_")) & set(shipped_suites()):
        yield from (f"data.{one.group}_ood.{one.name}={one.path}" for one in load_suite(name).sets)


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_the_evaluation_of_every_shipped_recipe_finds_its_images(recipe, folder, monkeypatch):
    monkeypatch.setenv("RTK_DATA", str(folder))
    monkeypatch.setenv("RTK_WEIGHTS", str(folder))
    config = load_config(recipe, [*suite_overrides(recipe)])
    assert "imagenet1k" not in recipe or set(config.data.near_ood) == {"ssb_hard", "ninco"}
    for number, (_, path) in enumerate(configured_paths(config.data).items()):
        if not path.startswith(PREFIX):
            make_set(path, number * ROWS)
    assert config.evaluate.protocol in PROTOCOLS
    assert set(image_columns(config.evaluate)) <= set(wanted_scores(config.evaluate)) <= set(SCORES)
    changes = [{}, {"risk": 0.1}, {"protocol": "aps"}] if config.data.validation_ood else [{}]
    for change in changes:
        settings = config.evaluate.model_copy(update=change)
        selections = evaluation_selections(config.model_copy(update={"evaluate": settings}))
        wanted = {"train", "test", *config.data.near_ood, *config.data.far_ood}
        assert wanted | ({"validation_ood"} if change else set()) <= set(selections)
    for name, selection in selections.items():
        block = decode_block(next(encoded_blocks(name, selection, 2)))
        assert block["reason"].to_pylist() == [None, None]
        assert len(block["pixels"][0].as_py()) == 3 * config.data.image_size**2
