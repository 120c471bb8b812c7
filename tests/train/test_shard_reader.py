"""What stands in a checkpoint's files is not believed: what is no fragment, or does not fit, is named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from rtk.runs.checkpoints import CheckpointError
from rtk.train.checkpoint import class_count, read_state
from rtk.train.shard_reader import ShardReader, weights_reader


@pytest.mark.parametrize("name", ["weight", "weight|a|b|0", "weight|a|x", "weight|a|-1", "weight|a|²"])
def test_no_fragment(tmp_path, name):
    save_file({name: torch.ones(2)}, tmp_path / "shard-00000.safetensors")
    with pytest.raises(CheckpointError, match="is no fragment"):
        ShardReader(tmp_path)


def test_a_scalar_is_no_fragment(tmp_path):
    save_file({"weight|a|0": torch.tensor(1.0)}, tmp_path / "shard-00000.safetensors")
    with pytest.raises(CheckpointError, match="is no fragment"):
        ShardReader(tmp_path)


def test_what_is_common_to_the_ranks(tmp_path):
    save_file({"weight|a|0": torch.ones(2)}, tmp_path / "shard-00000.safetensors")
    (tmp_path / "state.json").write_text("{}")
    save_file({"model|b": torch.ones(3)}, tmp_path / "common.safetensors")
    with pytest.raises(CheckpointError, match="'b' has 3 elements, wanted 2"):
        weights_reader(tmp_path)("b", torch.Size([2]))
    (tmp_path / "common.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="common.safetensors: not readable"):
        weights_reader(tmp_path)


@pytest.mark.parametrize("change", [{"step": "3"}, {"num_classes": 10**9}, {"kinds": 1}, {"metrics": []}])
def test_a_damaged_position(tmp_path, change):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"format": 2, "step": 3}))
    assert read_state(tmp_path)["step"] == 3
    with pytest.raises(CheckpointError, match="has no number of classes"):
        class_count(tmp_path)
    path.write_text(json.dumps({"format": 2, "step": 3, **change}))
    with pytest.raises(CheckpointError, match="state.json: damaged"):
        read_state(tmp_path)
