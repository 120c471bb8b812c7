import torch
from torch import nn

from rtk.config.schema import ModelConfig
from rtk.models import build_model
from rtk.models.footprint import _saved_bytes, measure_footprint


def test_saved_bytes_of_a_layer_counted_by_hand():
    """Linear keeps its input (the images: not counted), ReLU its output, the second Linear the same one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    images, labels = torch.rand(5, 3, 2, 2), torch.zeros(5, dtype=torch.int64)
    log_softmax, one_number, targets = 5 * 3 * 4, 4, 5 * 8
    assert _saved_bytes(net, images, labels) == 5 * 7 * 4 + log_softmax + one_number + targets


def test_a_trace_without_data_counts_what_a_real_pass_saves():
    config = ModelConfig(width=8)
    model = build_model(config, 10).train()
    real = _saved_bytes(model, torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    traced = measure_footprint(config, 10, 32, 4, autocast=False)
    assert traced.trained == sum(parameter.numel() for parameter in model.parameters())
    assert traced.frozen == 0
    assert traced.activations == real


def test_bf16_weights_need_no_copies():
    config = ModelConfig(name="timm/test_vit")
    autocast, weights = (measure_footprint(config, 10, 32, 1, bf16_weights=on) for on in (False, True))
    assert weights.activations < autocast.activations
