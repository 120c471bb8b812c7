"""What DeepSpeed asks the machine for, under ZeRO-3 on CPUs."""

from __future__ import annotations

import subprocess

from rtk.train.engine import import_deepspeed


def test_the_cores_are_asked_for_once(monkeypatch):
    accelerator = import_deepspeed().accelerator.get_accelerator()
    from deepspeed.utils import numa

    asked = []

    def numactl(command):
        asked.append(command)
        raise FileNotFoundError(command[0])  # as where it is not installed

    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    monkeypatch.setattr(subprocess, "check_output", numactl)
    numa.get_numa_cores.cache_clear()
    for _ in range(3):
        import_deepspeed()  # each engine comes by here
        assert accelerator.device_count() == 1
    numa.get_numa_cores.cache_clear()  # the next one asks the machine itself
    assert asked == [["numactl", "--hardware"]]
