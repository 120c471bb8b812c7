import pytest

from rtk.runs.atomic import replacing, write_json, write_text


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
