"""Suites of OOD sets and how an evaluation's config is put together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from rtk.config import ConfigError, load_config
from rtk.config.load import dump_config
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.sets import configured_ood, evaluation_config, evaluation_selections
from rtk.evaluate.suites import OODSet, known_groups, load_suite, parse_ood, shipped_suites
from rtk.runs.folder import RunFolder

DIGITS = "builtin:digits/"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A folder of an untrained run: enough where only the config is read."""
    (tmp_path / "config.yaml").write_text(dump_config(load_config("digits_ce")))
    return RunFolder(tmp_path)


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites_are_read_below_rtk_data(name, monkeypatch):
    monkeypatch.setenv("RTK_DATA", "/data")
    suite = load_suite(name)
    assert {entry.group for entry in suite.sets} == {"near", "far"}
    assert all(entry.path.startswith("/data/") for entry in suite.sets)
    assert suite.validation_ood not in [entry.path for entry in suite.sets]


def test_imagenet_suite_is_grouped_as_in_openood(monkeypatch):
    monkeypatch.setenv("RTK_DATA", "/data")
    groups = {entry.name: entry.group for entry in load_suite("imagenet1k").sets}
    assert [name for name, group in groups.items() if group == "near"] == ["ssb_hard", "ninco"]
    assert [name for name, group in groups.items() if group == "far"] == [
        "inaturalist",
        "textures",
        "openimage_o",
    ]


def test_shipped_suites_agree_on_the_group_of_a_set():
    groups = known_groups()
    assert (groups["cifar10"], groups["ninco"], groups["textures"]) == ("near", "near", "far")
    for name in shipped_suites():
        text = shipped_suites()[name].read_text()
        near, far = text.split("\nfar:")
        assert all(
            f"  {other}: " not in (far if group == "near" else near) for other, group in groups.items()
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nearr: {a: /a}", "unknown key 'nearr', nearest valid key is 'near'"),
        ("near: [a, b]", "near: got .*, wanted sets as name: path"),
        ("near: {a: null}", "near: got .*, wanted sets as name: path"),
        ("csid: [a]", "csid: got .*, wanted sets as name: path"),
        ("near: {a: [b]}", "near: got .*, wanted sets as name: path"),
        ("test: {a: /b}", "test: got .*, wanted a path"),
        ("test: /a", "got no OOD set"),
        ("- near", "got list, wanted a mapping"),
        ("near: {a", "not valid YAML"),
    ],
)
def test_bad_suites_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_suite(write(tmp_path, text))


def test_unknown_suite_and_unset_variable_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="got 'cifar1000', wanted a YAML file or one of .*cifar100"):
        load_suite("cifar1000")
    monkeypatch.delenv("RTK_DATA", raising=False)
    with pytest.raises(ConfigError, match="RTK_DATA"):
        load_suite("cifar100")


def test_missing_sets_are_all_named_and_may_be_left_out(run, tmp_path):
    suite = write(
        tmp_path, f"near: {{gone: /nowhere, there: '{DIGITS}near_digits89.parquet'}}\nfar: {{lost: /no}}"
    )
    with pytest.raises(ConfigError, match=r"2 of 3 sets are missing: gone \(/nowhere\), lost \(/no\)"):
        evaluation_config(run, suite=str(suite))
    assert list(configured_ood(evaluation_config(run, suite=str(suite), allow_missing=True))) == ["there"]
    with pytest.raises(ConfigError, match="none of its 1 sets"):
        evaluation_config(run, suite=str(write(tmp_path, "far: {lost: /no}")), allow_missing=True)


def test_suite_replaces_the_recipes_sets_and_more_are_added(run, tmp_path):
    suite = str(write(tmp_path, f"far: {{digits89: '{DIGITS}near_digits89.parquet'}}"))
    assert configured_ood(evaluation_config(run, suite=suite))["digits89"].group == "far"
    moved = OODSet("digits89", "near", "/b")
    sets = configured_ood(evaluation_config(run, suite=suite, ood=[moved, OODSet("more", "far", "/c")]))
    assert sets == {"digits89": moved, "more": OODSet("more", "far", "/c")}


def test_the_command_line_wins_over_a_suite_and_a_suite_over_the_recipe(run, tmp_path):
    near = f"{DIGITS}near_digits89.parquet"
    suite = str(write(tmp_path, f"near: {{a: '{near}', b: '{near}'}}\ntest: {near}\nvalidation_ood: {near}"))
    data = evaluation_config(run, suite=suite).data
    assert (data.test, data.validation_ood) == (near, near)
    given = ["data.test=/test", "data.validation_ood=/tune", "data.near_ood.b=/b", "data.far_ood.c=/c"]
    data = evaluation_config(run, given, suite).data
    assert (data.test, data.validation_ood) == ("/test", "/tune")
    assert (data.near_ood, data.far_ood) == ({"a": near, "b": "/b"}, {"c": "/c"})


def test_covariate_shifted_sets_of_a_suite_are_test_sets_of_the_runs_classes(run, tmp_path):
    test, near = (f"{DIGITS}{name}.parquet" for name in ("test", "near_digits89"))
    suite = write(tmp_path, f"near: {{digits89: '{near}'}}\ncsid: {{scans: '{test}', lost: /nowhere}}")
    with pytest.raises(ConfigError, match=r"1 of 3 sets are missing: lost \(/nowhere\)"):
        evaluation_config(run, suite=str(suite))
    config = evaluation_config(run, suite=str(suite), allow_missing=True)
    assert config.data.csid == {"scans": test}
    assert list(configured_ood(config)) == ["digits89"]
    assert evaluation_config(run, [f"data.csid.v2={test}"]).data.csid == {"v2": test}
    selections = evaluation_selections(config)
    assert selections["scans"].dataset.classes == selections["train"].dataset.classes
    with pytest.raises(ConfigError, match="data.csid: the name 'digits89' is taken"):
        evaluation_selections(evaluation_config(run, [f"data.csid.digits89={test}"]))
    strange = Path(shutil.copy(resolve_path(near), tmp_path / "strange.parquet"))
    (tmp_path / "classes.json").write_text('{"classes": ["cat", "dog"]}')
    with pytest.raises(ConfigError, match=r"data\.csid\.strange: .*classes have other names than the run's"):
        evaluation_selections(evaluation_config(run, [f"data.csid.strange={strange}"]))


def test_shipped_suites_have_the_covariate_shifted_sets_of_openood(monkeypatch):
    monkeypatch.setenv("RTK_DATA", "/data")
    assert list(load_suite("openood_imagenet").csid) == [
        *("imagenet_v2", "imagenet_c", "imagenet_r", "imagenet_es"),
    ]
    assert load_suite("openood_cifar10").csid == {"cifar10c": "/data/openood/cifar10/test_cifar10c.parquet"}
    assert load_suite("openood_cifar100").csid == {}


def test_two_sets_of_one_name_are_refused(run):
    for group in ("near", "far"):
        with pytest.raises(ConfigError, match=r"--ood: got 'k' twice"):
            evaluation_config(run, ood=[OODSet("k", "far", "/a"), OODSet("k", group, "/b")])


def test_raw_images_are_prepared_into_the_cache(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RTK_CACHE", str(tmp_path / "cache"))
    for folder in ("photos/0", "photos/1", "others/x"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    photos, others = tmp_path / "photos", tmp_path / "others"
    given = [f"data.test={photos}", f"data.validation_ood={others}"]
    data = evaluation_config(run, given, ood=[OODSet("k", "far", str(others))]).data
    assert open_dataset(data.test).classes == ("0", "1")
    assert data.far_ood["k"] == data.validation_ood
    assert open_dataset(data.far_ood["k"]).classes == ("unlabelled",)
    assert data.far_ood["photos"] == "builtin:digits/far_photos.parquet"
    assert f"{others}: 1 images (image folder), kept as {data.far_ood['k']}" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"data.test: .*others: holds the single class 'x'"):
        evaluation_config(run, [f"data.test={others}"])


@pytest.mark.parametrize("override", ["model.width=99", "data.validation_fraction=0.5", "data.train=/a"])
def test_what_was_trained_cannot_be_changed(run, override):
    with pytest.raises(ConfigError, match="would need another training"):
        evaluation_config(run, [override])


def test_images_to_tune_on_must_not_be_tested_on(run, tmp_path):
    photos = f"{DIGITS}far_photos.parquet"
    config = evaluation_config(run, ["evaluate.protocol=aps", f"data.validation_ood={photos}"])
    with pytest.raises(ConfigError, match="data.validation_ood: got images of the test set 'photos'"):
        evaluation_selections(config)
    with pytest.raises(ConfigError, match="data.validation_ood: got null"):
        evaluation_selections(evaluation_config(run, ["evaluate.protocol=aps"]))
    with pytest.raises(ConfigError, match="data.validation: got images of the test set 'test'"):
        evaluation_selections(evaluation_config(run, [f"data.validation={DIGITS}test.parquet"]))


def test_a_copy_of_a_test_set_is_found_too(run, tmp_path):
    from rtk.data.sets.builtin import resolve_path

    copy = tmp_path / "copy.parquet"
    copy.write_bytes(Path(resolve_path(f"{DIGITS}far_photos.parquet")).read_bytes())
    config = evaluation_config(run, ["evaluate.risk=0.1", f"data.validation_ood={copy}"])
    with pytest.raises(ConfigError, match="'photos'"):
        evaluation_selections(config)


def test_images_to_calibrate_on_are_neither_tested_nor_trained_on(run):
    def selections(path, *overrides):
        given = ["evaluate.risk=0.1", f"data.calibration={path}", *overrides]
        return evaluation_selections(evaluation_config(run, given))

    assert selections(f"{DIGITS}validation.parquet")["calibration"].dataset.classes[0] == "0"
    with pytest.raises(ConfigError, match="data.calibration: got images of the test set 'test'"):
        selections(f"{DIGITS}test.parquet")
    with pytest.raises(ConfigError, match="data.calibration: got images of the training set"):
        selections(f"{DIGITS}train.parquet")
    with pytest.raises(ConfigError, match=r"data.calibration: .*far_photos"):
        selections(f"{DIGITS}far_photos.parquet")
    with pytest.raises(ConfigError, match="--ood: the name 'calibration' is taken"):
        selections(
            f"{DIGITS}validation.parquet", f"data.far_ood={{calibration: '{DIGITS}far_photos.parquet'}}"
        )
    unused = evaluation_config(run, ["data.calibration=/no"])
    assert "calibration" not in evaluation_selections(unused)


def test_thresholds_of_an_image_score_need_validation_images_of_their_own(run):
    (run.path / "config.yaml").write_text(dump_config(load_config("digits_ce", ["data.validation=null"])))
    overrides = ["evaluate.risk=0.1", "evaluate.confidence=rr_fast"]
    with pytest.raises(ConfigError, match="data.validation: got null.*rr_fast runs the model"):
        evaluation_selections(evaluation_config(run, overrides))
    given = f"data.calibration={DIGITS}validation.parquet"
    assert "calibration" in evaluation_selections(evaluation_config(run, [*overrides, given]))


def test_validation_ood_is_read_only_where_something_is_tuned(run):
    assert "validation_ood" not in evaluation_selections(evaluation_config(run, ["data.validation_ood=/no"]))


@pytest.mark.parametrize("rule", ["linear", "monotone"])
def test_a_joint_rule_is_fitted_to_validation_ood_without_a_wanted_risk_too(run, rule):
    given = [f"evaluate.rule={rule}", f"data.validation_ood={DIGITS}far_photos.parquet", "data.far_ood={}"]
    assert "validation_ood" in evaluation_selections(evaluation_config(run, given))


@pytest.mark.parametrize(
    ("text", "name", "group"),
    [("cifar10=/a", "cifar10", "near"), ("mnist=/a", "mnist", "far"), ("near:cats=/a=b", "cats", "near")],
)
def test_ood_sets_are_parsed(text, name, group):
    parsed = parse_ood(text)
    assert (parsed.name, parsed.group) == (name, group)


@pytest.mark.parametrize("text", ["cats", "cats=/a", "middle:cats=/a", "=/a", "mnist="])
def test_bad_ood_sets_are_refused(text):
    with pytest.raises(ConfigError, match="--ood"):
        parse_ood(text)


def test_names_and_paths_of_a_suite_are_taken_as_typed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("near: {2026-11-26: no, v.2: 010}\nfar: {on: 1e3}\ntest: 7\n")
    suite = load_suite(path)
    assert [(entry.name, entry.group, entry.path) for entry in suite.sets] == [
        ("2026-11-26", "near", "no"),
        ("v.2", "near", "010"),
        ("on", "far", "1e3"),
    ]
    assert suite.test == "7"


def test_a_set_that_stands_twice_in_a_suite_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("near:\n  cats: a\n  cats: b\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 3: near.cats stands in line 2 already"):
        load_suite(path)
