"""The demo's own recipes, from the command line, shortened."""

import json
from pathlib import Path

import pytest

from rtk.cli import build_parser, main
from rtk.commands import demo


@pytest.mark.parametrize("option", ["--output", "--out"])
def test_the_folder_of_the_runs_has_the_same_option_as_elsewhere(option):
    assert build_parser().parse_args(["demo", option, "2024"]).output == "2024"


@pytest.mark.slow
def test_demo_prints_one_json_object_of_the_documented_form(tmp_path, capsys, monkeypatch, ray_session):
    for name, recipe in demo.RECIPES.items():
        shorter = f"base: {recipe}\nmodel: {{width: 4}}\ntrain: {{duration: 1ep}}\n"
        (tmp_path / f"{name}.yaml").write_text(shorter)
    monkeypatch.setattr(demo, "RECIPES", {name: f"{name}.yaml" for name in demo.RECIPES})
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output", "2024", "--json"]) == 0  # a name that YAML would take for a number
    assert len(list((tmp_path / "2024").glob("*/config.yaml"))) == 2
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"baseline", "sure_plus", "report"}
    keys = "accuracy aurc e_aurc auroc_near auroc_far fpr95_near fpr95_far "
    keys += "ds_f1_near ds_f1_far ds_aurc_near ds_aurc_far"
    for name in ("baseline", "sure_plus"):
        assert set(keys.split()) <= set(result[name])
        assert all(0 <= result[name][key] <= 1 for key in keys.split())
    assert "<svg" in Path(result["report"]).read_text()
