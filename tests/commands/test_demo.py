"""The demo's own recipes, from the command line, shortened."""

import json
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.commands import demo

pytestmark = pytest.mark.slow


def test_demo_prints_one_json_object_of_the_documented_form(tmp_path, capsys, monkeypatch, ray_session):
    shorter = ["model.width=4", "train.duration=1ep"]
    original = demo.load_config
    monkeypatch.setattr(demo, "load_config", lambda recipe, keys: original(recipe, [*keys, *shorter]))
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"baseline", "sure_plus", "report"}
    keys = "accuracy aurc e_aurc auroc_near auroc_far fpr95_near fpr95_far "
    keys += "ds_f1_near ds_f1_far ds_aurc_near ds_aurc_far"
    for name in ("baseline", "sure_plus"):
        assert set(keys.split()) <= set(result[name])
        assert all(0 <= result[name][key] <= 1 for key in keys.split())
    assert "<svg" in Path(result["report"]).read_text()
