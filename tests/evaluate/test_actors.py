"""What an actor makes of decoded blocks, in this process."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save_file

from rtk.config import load_config
from rtk.data.decode.pipeline import Selection, decode_block, encoded_blocks
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.actors import SECONDS, Fit, LoadedModel, Predict
from rtk.evaluate.evaluate import Shifted, _evaluate
from rtk.evaluate.pool import Pool
from rtk.evaluate.sets import binding_record, evaluation_config, evaluation_selections
from rtk.models import build_model
from rtk.scores import SCORES, compute_image_score, fit_image_score
from rtk.scores.variants import column_of, fit_of, scoring_of
from rtk.train.imported import import_weights

NAME, CLASSES, ROWS = "relu_perturbed", 8, 24
STEPPED = column_of(SCORES[NAME], {"temperature": 2, "epsilon": 0.001})


@pytest.fixture
def run(tmp_path):
    """A network of random weights."""
    torch.manual_seed(0)
    config = load_config("digits_ce", ["model.width=2", f"output={tmp_path}"])
    save_file(build_model(config.model, CLASSES, 32).state_dict(), tmp_path / "weights.safetensors")
    return import_weights(tmp_path / "weights.safetensors", config, "random").run


@pytest.fixture
def loaded(run):
    """The network, as an actor holds it."""
    return LoadedModel(str(run.path), "best", 1, "fp32")


@pytest.fixture
def selection():
    return Selection(open_dataset(resolve_path("builtin:digits/test.parquet"), need_classes=False), 32, ROWS)


def test_a_variant_of_a_fitted_score_takes_what_the_score_was_fitted_to(loaded, selection, tmp_path):
    """Fitted on the last 16 of 24 images, in blocks of 10; without a step it would be another number."""
    blocks = [decode_block(block) for block in encoded_blocks("train", selection, 10)]
    images = torch.cat([loaded.images(block) for block in blocks])
    labels, used = selection.labels(), torch.arange(ROWS).numpy() >= 8
    fit = Fit(NAME, 0, labels, used).begin(loaded)
    parts = [load(encoded) for block in blocks if (encoded := fit(block)["part"][0].as_py())]
    save_file(SCORES[NAME].passes[0].merge(parts), tmp_path / "fitted.safetensors")

    predict = Predict(False, (NAME, STEPPED), {NAME: str(tmp_path / "fitted.safetensors")}).begin(loaded)
    found = [predict(block) for block in blocks]
    held_out = [(images[8:], torch.from_numpy(labels[8:]))]
    fitted = fit_image_score(NAME, loaded.model, [], held_out)
    for column, options in ((NAME, {}), (STEPPED, {"temperature": 2, "epsilon": 0.001})):
        wanted = compute_image_score(NAME, loaded.model, images, fitted, **options)
        values = torch.cat([torch.from_numpy(table[column].to_numpy().copy()) for table in found])
        torch.testing.assert_close(values, wanted, rtol=1e-3, atol=1e-6)
        still = compute_image_score(NAME, loaded.model, images, fitted, **{**options, "epsilon": 0})
        assert (values < still).all()


def test_a_score_is_fitted_with_the_hyperparameters_that_are_given(loaded, selection, tmp_path):
    """In its passes as in scoring; one of scoring alone shares the fit of the defaults."""
    blocks = [decode_block(block) for block in encoded_blocks("train", selection, 10)]
    images = torch.cat([loaded.images(block) for block in blocks])
    own = column_of(SCORES["adascale_a"], {"k1": 50, "percentile_low": 60})
    columns = ("adascale_a", column_of(SCORES["adascale_a"], {"percentile_low": 60}), own)
    files, used = {}, torch.ones(ROWS, dtype=bool).numpy()
    for number, (name, settings) in enumerate(map(fit_of, columns)):
        fit = Fit("adascale_a", 0, selection.labels(), used, settings=settings).begin(loaded)
        parts = [load(fit(block)["part"][0].as_py()) for block in blocks]
        files[name] = str(tmp_path / f"{number}.safetensors")
        save_file(SCORES["adascale_a"].passes[0].merge(parts), files[name])
    assert list(files) == ["adascale_a", 'adascale_a{"k1": 50}']

    predict = Predict(False, columns, files).begin(loaded)
    found = [predict(block) for block in blocks]
    for column in columns:
        fitting, scoring = fit_of(column)[1], scoring_of(column)
        fitted = fit_image_score("adascale_a", loaded.model, [], [(images, torch.zeros(ROWS))], **fitting)
        wanted = compute_image_score("adascale_a", loaded.model, images, fitted, **scoring)
        values = torch.cat([torch.from_numpy(table[column].to_numpy().copy()) for table in found])
        torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
    assert json.loads(found[0].schema.metadata[SECONDS]).keys() == {"adascale_a"}


class InThisProcess(Pool):
    """A pool whose one actor is this process."""

    def __init__(self, run, settings):
        super().__init__(run, "best", settings)
        self.loaded, self.works = LoadedModel(str(run.path), "best", 1, "fp32"), []

    def run_blocks(self, selections, work, prepare=decode_block):
        self.works.append(type(work).__name__)
        step = work.begin(self.loaded)
        for name, selection in selections.items():
            for block in encoded_blocks(name, selection, self.settings.batch_size):
                yield step(prepare(block))


def test_an_evaluation_fits_and_records_what_is_given(run):
    """Of scores of images too; the same once more does nothing again, another value what it changes."""

    def evaluated(*given):
        scores = ["evaluate.scores=[msp, adascale_a, gram]", "evaluate.batch_size=16"]
        config = evaluation_config(run, [*scores, *(f"evaluate.scores.{each}" for each in given)])
        pool = InThisProcess(run, config.evaluate)
        selections = evaluation_selections(config, ROWS, binding_record(run, config))
        result = _evaluate(pool, config, selections, Shifted())
        return result["protocol"]["hyperparameters"], result["test"], pool.works

    used, first, works = evaluated("adascale_a.k1=50", "weiper.repeats=3", "knn.k=4")
    assert (used["adascale_a"]["k1"], used["weiper"]["repeats"], used["knn"]) == (50, 3, {"k": 4})
    assert works == ["Fit"] * 3 + ["Predict"] * 2
    assert evaluated("adascale_a.k1=50", "weiper.repeats=3", "knn.k=4") == (used, first, [])
    used, second, works = evaluated("adascale_a.percentile_low=60", "gram.classes=labels")
    assert (used["adascale_a"]["k1"], used["gram"]) == (5.0, {"classes": "labels"})
    assert works == ["Fit"] * 3 + ["Predict"]
    assert second["adascale_a"] != first["adascale_a"]
    assert second["gram"] != first["gram"]
