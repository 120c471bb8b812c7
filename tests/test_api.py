"""rtk from Python: light to import, and the commands' results as tables, figures and models."""

import inspect
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import rtk
from rtk.config.errors import ConfigError

SMALL = {
    "model.width": 8,
    "data.train_rows": 256,
    "train.workers": 1,
    "train.threads": 1,
    "train.duration": "1ep",
    "evaluate.scores": ["msp", "knn"],
}


def test_import_is_light_and_what_it_offers_is_named():
    heavy = {"torch", "ray", "numpy", "yaml", "pandas", "pydantic"}
    code = f"import sys, rtk; dir(rtk), rtk.train, rtk.compare; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert {"train", "evaluate", "compare", "load_model", "__version__"} <= set(dir(rtk))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rtk.trian  # noqa: B018


def test_packages_of_the_same_name_can_be_called():
    import rtk.evaluate.sets
    import rtk.train.launch

    said = {}
    for name in ("train", "evaluate", "compare", "load_model"):
        with pytest.raises(ConfigError) as error:
            getattr(rtk, name)(["/nowhere"] if name == "compare" else "/nowhere")
        said[name] = str(error.value).split(":")[0]
    assert said == {"train": "recipe", "evaluate": "run", "compare": "run", "load_model": "model"}


def test_a_callable_package_is_still_a_package():
    import rtk.train.launch

    assert rtk.train.launch.launch_training
    assert pickle.loads(pickle.dumps(rtk.train)) is rtk.train
    assert list(inspect.signature(rtk.train).parameters) == ["recipe", "overrides", "output", "name"]
    assert "suite" in inspect.signature(rtk.evaluate).parameters


@pytest.fixture(scope="module")
def trained(ray_session, tmp_path_factory):
    return rtk.train("digits_ce", SMALL, output=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def evaluated(trained):
    return trained.evaluate(risk=0.9)


@pytest.fixture(scope="module")
def model(trained, evaluated):
    return trained.export()


@pytest.mark.slow
def test_train_returns_the_run_with_its_metrics(trained):
    assert trained.status == "finished"
    assert set(trained.metrics) == {"step", "epoch", "time", "key", "value"}
    last = trained.metrics.query("key == 'val/accuracy'").value.iloc[-1]
    assert trained.summary["val/accuracy"] == last
    assert str(trained.path) in trained._repr_html_()
    resumed = trained.resume({"train.duration": "5steps"})
    assert (resumed.path, resumed.metrics.step.max()) == (trained.path, 5)


@pytest.mark.slow
def test_overrides_are_a_mapping_or_words_and_a_wrong_one_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.lr: got -1"):
        rtk.train("digits_ce", {"optimizer.lr": -1})
    with pytest.raises(ConfigError, match=r"optimizer\.lr: got -1"):
        rtk.train("digits_ce", ["optimizer.lr=-1"])


@pytest.mark.slow
def test_evaluation_is_tables_and_figures(evaluated):
    test = evaluated.table.query("set == 'test' and score == 'msp'")
    assert test.accuracy.item() == evaluated.summary["accuracy"]
    assert {"digits89", "photos"} <= set(evaluated.table.set)
    assert evaluated.report.is_file()
    assert len(evaluated.figures) >= 6
    for figure in evaluated.figures:
        assert "<svg" in figure._repr_html_()
        assert figure.caption in figure._repr_html_()
    assert evaluated._repr_html_().count("<tr") == len(evaluated.table) + 1


@pytest.mark.slow
def test_more_sets_and_scores_can_be_named(trained, evaluated, fresh_tables):
    sets = {"far:more": "builtin:digits/validation_far_noise.parquet"}
    plugin = Path(__file__).parents[1] / "docs" / "examples" / "my_score.py"
    scores = ["energy", "class_cosine"]
    again = rtk.evaluate(
        trained.path.name, scores=scores, ood=sets, plugins=[plugin], output=trained.path.parent
    )
    assert set(again.table.score) >= set(scores)
    assert set(again.table.set) >= {"more"}
    trained.evaluate(risk=0.9)  # the fixtures' decision rule again


@pytest.mark.slow
def test_compare_is_a_table(trained, evaluated):
    found = rtk.compare([trained, trained.path], metrics=["accuracy"])
    assert found.table.columns[0] == "run"
    assert (found.runs["metrics.accuracy"] == evaluated.summary["accuracy"]).all()
    assert "<table" in found._repr_html_()
    with pytest.raises(ConfigError, match="metric: got 'acuracy'"):
        rtk.compare([trained], metrics=["acuracy"])


@pytest.mark.slow
def test_a_run_that_was_not_exported_says_the_same(model, trained, photo, tmp_path):
    """Up to rounding: convolutions of a run may work in another memory layout."""
    copy = tmp_path / trained.path.name
    shutil.copytree(trained.path, copy, ignore=shutil.ignore_patterns("export"))
    unexported = rtk.load_model(copy)
    assert not (copy / "export").exists()
    assert repr(unexported) == repr(model)
    pd.testing.assert_frame_equal(unexported(photo), model(photo), rtol=1e-4)
    (copy / "evaluation" / "decision.json").unlink()
    with pytest.raises(ConfigError, match="rtk evaluate RUN --risk"):
        rtk.load_model(copy)


@pytest.mark.slow
def test_load_model_finds_an_exported_run(model, trained):
    loaded = rtk.load_model(trained.path)
    assert repr(loaded) == repr(model)
    assert trained.path.name in repr(loaded)


@pytest.mark.slow
def test_the_readme_s_python_runs(model, trained, photo, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "NAME").symlink_to(trained.path)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["model"]("photo.jpg").decision.notna().all()
