"""One file alone reads what DeepSpeed keeps to itself."""

import re
from pathlib import Path

import rtk

PACKAGE = Path(rtk.__file__).parent
PRIVATE = re.compile(
    r"\bds_(numel|id|shape|tensor|status|persist)|_hp_mapping|__compatible_ops__|fp(16|32)_groups"
    r"|averaged_gradients|partitioned_groups|partition_of_fp32|grad_position|get_param_id|parameter_offload"
    r"|persistent_parameters|partition_all_parameters|_reassign_or_swap|update_lp_params"
)


def test_private_fields_are_read_in_one_file():
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if PRIVATE.search(path.read_text())
    }
    assert found == {"train/zero_shards.py"}
