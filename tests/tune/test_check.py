"""Search spaces against a recipe: what is refused, and that nothing is started for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rtk.cli import main
from rtk.config import ConfigError
from rtk.config.load import shipped_recipes
from rtk.config.search_space import base_config, load_space, parse_space, points
from rtk.train.initial import check_model
from rtk.tune.check import check_space

SPACES = Path(__file__).parents[2] / "search_spaces"
SMALL = yaml.safe_load((SPACES / "small.yaml").read_text())


@pytest.mark.parametrize("name", ["sure_plus", "rat", "sure_plus_rat", "small", "population"])
def test_shipped_spaces_fit_a_recipe(name):
    space = load_space(SPACES / f"{name}.yaml")
    config = base_config(space, "digits_demo")
    check_space(space, config)
    for point in points(space, config):
        assert all(space.space[key].contains(value) for key, value in point.items())


SHIPPED = [entry.stem for entry in sorted(SPACES.glob("*.yaml"))]
# What a recipe without a clean term cannot leave out or take (with a projection head nothing that reads
# logits), and the width of a published network.
UNFIT = (
    "every term has weight 0",
    "no term is on",
    "needs objective.cross_entropy.weight above 0",
    "needs objective.cross_entropy.weight or objective.regmixup.weight above 0",
    "got projection, wanted linear, cosine or abet for objective.",
    "model.width: got 4",
)


def refusal(space, config) -> str:
    try:
        check_space(space, config)
        if "model.width" in space.fixed:
            check_model(config, 100)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("recipe", [name for name in shipped_recipes() if "demo" not in name])
def test_every_shipped_space_fits_every_shipped_recipe_that_has_its_keys(name, recipe, monkeypatch):
    monkeypatch.setenv("RTK_DATA", "/data")
    monkeypatch.setenv("RTK_WEIGHTS", "/weights")
    space = load_space(SPACES / f"{name}.yaml")
    config = base_config(space, recipe, ["model.weights=null", "model.head_weights=load"])
    refused = refusal(space, config)
    if refused:
        assert any(reason in refused for reason in UNFIT), refused
        clean = config.objective.cross_entropy
        assert clean.weight == 0 or clean.last == "10ep only" or "model.width" in space.fixed
    for group in ("near", "far"):
        if f"val/ds_aurc_{group}" in space.metrics:
            assert getattr(config.data, f"validation_{group}_ood")


def test_validation_ood_stands_for_the_validation_sets_that_the_objectives_lack():
    tree = {**SMALL, "objectives": {"val/ds_aurc_near": "min", "val/ds_aurc_far": "min"}}
    space = parse_space(tree, "x")
    given = ["data.validation_ood=x.parquet"]
    config = base_config(space, "digits_ce", given)
    assert set(config.data.validation_near_ood) == {"halves"}
    config = base_config(space, "digits_ce", [*given, "data.validation_near_ood={}"])
    assert config.data.validation_near_ood == {"validation_ood": "x.parquet"}
    assert set(config.data.validation_far_ood) == {"noise"}
    only_far = parse_space({**SMALL, "objectives": {"val/ds_aurc_far": "min"}}, "x")
    config = base_config(only_far, "digits_ce", [*given, "data.validation_near_ood={}"])
    assert config.data.validation_near_ood == {}


def test_check_says_what_a_sweep_would_do_and_starts_nothing(tmp_path, capsys):
    arguments = ["sweep", str(SPACES / "small.yaml"), "digits_ce", "--check", "--trials", "5"]
    arguments.append(f"output={tmp_path}")
    assert main(arguments) == 0
    said = capsys.readouterr().out
    for line in (
        "valid: ",
        "objectives: val/ds_aurc_near (min)",
        "5 trials of at most 6 epochs: tpe, asha",
        "seeds of a trial: 0\n",
        "a trial: 1 worker, each with 1 CPU",
        "data.validation_near_ood.halves: 290 images, ",
    ):
        assert line in said
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--json"]) == 0
    outline = json.loads(capsys.readouterr().out)
    assert outline["trials"] == 5
    assert outline["images"]["train"]["images"] == 865


def test_a_suite_gives_the_ood_images_that_a_recipe_lacks(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("near: {a: a.parquet}\nvalidation_ood: tune/here.parquet\n")
    arguments = ["sweep", str(SPACES / "small.yaml"), "digits_ce", "--check", "data.validation_near_ood={}"]
    assert main([*arguments, "--suite", str(tmp_path / "mine.yaml")]) == 2
    assert "data.validation_ood: tune/here.parquet does not exist; rtk data" in capsys.readouterr().err


def checked(tmp_path, changes, overrides=()):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    space = load_space(path)
    check_space(space, base_config(space, "digits_demo", overrides))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"optimzer.lr": {"uniform": [0.1, 1]}}},
            "unknown key 'optimzer.lr', nearest .* 'optimizer.lr'",
        ),
        ({"space": {"optimizer.lr": {"uniform": [1, 0.1]}}}, r"got \[1, 0.1\], wanted the lower bound below"),
        ({"space": {"optimizer.lr": {"uniform": [-1, 0.1]}}}, "optimizer.lr: with -1.0: .* greater than 0"),
        (
            {"space": {"optimizer.momentum": {"uniform": [0, 2]}}},
            "optimizer.momentum: with 2.0: .* less than 1",
        ),
        ({"space": {"optimizer.lr": {"loguniform": [0, 0.1]}}}, "loguniform.0: got 0, .* greater than 0"),
        (
            {"space": {"optimizer.lr": {"uniform": [0, 1], "choice": [1]}}},
            "got uniform and choice, wanted one of",
        ),
        ({"space": {"train.batch_size": {"uniform": [8, 64]}}}, "wanted a whole number"),
        ({"space": {"sharpness.variant": {"choice": ["sam", "sams"]}}}, "with 'sams'"),
        ({"space": {"data.train": {"choice": ["a"]}}}, "all trials share this key"),
        ({"space": {"seed": {"randint": [0, 9]}}}, "all trials share this key"),
        ({"space": {"seed": {"randint": [0, 9]}}}, "replicates: N trains each trial with N seeds"),
        (
            {"replicates": 2, "scheduler": {"name": "pbt"}, "space": {"optimizer.lr": {"uniform": [0.1, 1]}}},
            "replicates: got 2, wanted 1 for scheduler pbt",
        ),
        ({"replicates": 0}, "replicates: got 0"),
        ({"replicates": 2, "fixed": {"seed": 2**63 - 1}}, "seed: got 9223372036854775808"),
        ({"objectives": {"val/ds_aurk_near": "min"}}, "nearest valid metric is 'val/ds_aurc_near'"),
        ({"objectives": {"test/ds_aurc_near": "min"}}, "may only see validation sets"),
        (
            {"scheduler": {"name": "pbt"}},
            "space.sharpness.variant: scheduler pbt changes values in a running",
        ),
        (
            {
                "scheduler": {"name": "pbt"},
                "space": {
                    "objective.regpixmix.k": {"choice": [1, 2]},
                    "optimizer.lr": {"uniform": [0.1, 1], "when": {"objective.regpixmix.k": [1]}},
                },
            },
            "space.optimizer.lr.when: scheduler pbt takes no conditions",
        ),
        *(
            (
                {
                    "scheduler": {"name": "pbt"},
                    "fixed": {"train.workers": 1, **fixed},
                    "concurrent": concurrent,
                    "space": {"optimizer.lr": {"uniform": [0.1, 1]}},
                },
                message,
            )
            for fixed, concurrent, message in (
                ({"train.checkpoint_every": 2}, None, "train.checkpoint_every: got 2, wanted 1"),
                ({"train.workers": 2}, None, "train.workers: got 2, wanted 1"),
                ({}, 2, "concurrent: got 2, wanted null"),
            )
        ),
        ({"trails": 3}, "unknown key 'trails', nearest valid key is 'trials'"),
        ({"warm_starts": [{"optimizer.lr": 9}]}, "optimizer.lr: got 9, which its distribution cannot draw"),
        (
            {"space": {"sharpness.rho": {"uniform": [0.1, 1], "when": {"sharpness.variant": ["sam"]}}}},
            "no key that is searched above it",
        ),
        ({"space": {"data.augment.crop": {"choice": ["pad", "resized"]}}}, "all trials share this key"),
    ],
)
def test_a_space_that_cannot_work_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        checked(tmp_path, changes if "space" not in changes else {**changes, "warm_starts": []})


def test_test_sets_are_no_validation_sets(tmp_path):
    test_set = "builtin:digits/near_digits89.parquet"
    with pytest.raises(ConfigError, match="is a test set"):
        checked(tmp_path, {}, [f"data.validation_near_ood.x={test_set}"])
    with pytest.raises(ConfigError, match="needs data.validation_near_ood"):
        checked(tmp_path, {}, ["data.validation_near_ood={}"])
    with pytest.raises(ConfigError, match="optimizer.lr is searched"):
        checked(tmp_path, {}, ["optimizer.lr=0.1"])


def test_fixed_values_may_be_nested_as_in_a_recipe(tmp_path):
    tree = {"objectives": {"val/accuracy": "max"}, "space": {"optimizer.lr": {"choice": [1e-2, 5e-2]}}}
    config = base_config(parse_space({**tree, "fixed": {"sharpness": {"rho": 0.3}}}, "x"), "digits_demo")
    assert (config.sharpness.rho, config.sharpness.variant) == (0.3, "fsam")
    with pytest.raises(ConfigError, match=r"fixed 'optimizer.lr=0.1': optimizer.lr is searched"):
        base_config(parse_space({**tree, "fixed": {"optimizer": {"lr": 0.1}}}, "x"), "digits_demo")


def test_the_recipes_point_is_found_among_numbers_in_scientific_notation(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "objectives: {val/accuracy: max}\nwarm_starts: [recipe]\n"
        "space: {optimizer.lr: {choice: [1e-2, 5e-2]}}\n"
    )
    space = load_space(path)
    assert list(points(space, base_config(space, "digits_demo"))) == [{"optimizer.lr": 0.05}]


def test_a_scheduler_that_is_no_section_is_named(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("objectives: {val/accuracy: max}\nscheduler: asha\nspace: {seed: {randint: [1, 2]}}\n")
    with pytest.raises(ConfigError, match="scheduler: got 'asha'"):
        load_space(path, {"scheduler.name": "none"})


def test_a_warm_start_leaves_out_what_the_recipe_has_no_number_for():
    tree = {"objectives": {"val/accuracy": "max"}, "trials": 2, "warm_starts": ["recipe"]}
    keys = {"optimizer.clip_norm": [0.1, 10.0], "optimizer.lr": [0.5, 0.9]}
    space = parse_space({**tree, "space": {key: {"loguniform": bounds} for key, bounds in keys.items()}}, "x")
    config = base_config(space, "digits_demo")
    check_space(space, config)
    assert list(points(space, config)) == [{"optimizer.lr": 0.5}]


def test_data_that_no_sweep_may_use_is_refused_in_one_line(tmp_path, capsys):
    change = "data.validation=builtin:digits/test.parquet"
    arguments = ["sweep", str(SPACES / "small.yaml"), "digits_demo", change, f"output={tmp_path}"]
    assert main(arguments) == 2
    assert "data.validation: holds images of the test set" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_copy_of_a_test_set_is_refused_in_one_line_before_ray_starts(tmp_path):
    from rtk.data.sets.builtin import resolve_path

    copy = tmp_path / "innocent.parquet"
    copy.write_bytes(Path(resolve_path("builtin:digits/near_digits89.parquet")).read_bytes())
    arguments = ["sweep", str(SPACES / "small.yaml"), "digits_demo", f"data.validation_near_ood.x={copy}"]
    arguments.append(f"output={tmp_path}")
    code = f"""
import sys
from rtk.cli import main
code = main({arguments!r})
assert "ray" not in sys.modules, "ray was imported"
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "holds images of the test set 'digits89'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]
