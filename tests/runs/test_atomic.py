import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from rtk.runs.atomic import replacing, write_json, write_tensors, write_text


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})

    def fill_the_disk():
        with replacing(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert (tmp_path / "a.json").read_text() == '{\n "old": 1\n}'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_text_is_written_as_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "Größe")
    assert (tmp_path / "a.txt").read_bytes() == "Größe".encode()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o007, 0o660)])
def test_files_follow_the_umask_and_not_who_writes_them(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for _ in range(2):  # new, and in the place of a file
            write_tensors(tmp_path / "a.safetensors", {"w": torch.arange(3.0)}, {"by": "a test"})
            write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}
    assert torch.equal(load_file(tmp_path / "a.safetensors")["w"], torch.arange(3.0))
    assert len(list(tmp_path.iterdir())) == 2
