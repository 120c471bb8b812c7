"""Files of a checkpoint: compared with what was written, wholly or by some of their blocks."""

from __future__ import annotations

import random

import pytest

from rtk.runs import file_records
from rtk.runs.file_records import SAMPLED, fault_of_content, record_of


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of ten blocks, the last of them cut."""
    monkeypatch.setattr(file_records, "BLOCK", 100)
    path = tmp_path / "shard.safetensors"
    path.write_bytes(random.Random(0).randbytes(970))
    return path


def flip(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_is_as_it_was_written_has_no_fault(file):
    for in_blocks in (False, True):
        for every_byte in (False, True):
            assert fault_of_content(file, record_of(file, in_blocks), every_byte) is None


@pytest.mark.parametrize("position", [0, 99, 900, 969])
def test_the_first_and_the_last_block_are_always_read(file, position):
    record = record_of(file, in_blocks=True)
    flip(file, position)
    assert "CRC-32 of block" in fault_of_content(file, record, every_byte=False)


def test_other_blocks_are_drawn_anew_each_time(file):
    record = record_of(file, in_blocks=True)
    flip(file, 350)
    found = [fault_of_content(file, record, every_byte=False) is not None for _ in range(400)]
    assert abs(sum(found) / 400 - (SAMPLED - 2) / 8) < 0.1  # 2 of the 8 within; 4.6 standard deviations
    assert "SHA-256" in fault_of_content(file, record)


def test_a_file_of_another_step_is_found(file):
    record = record_of(file, in_blocks=True)
    file.write_bytes(random.Random(1).randbytes(970))
    assert fault_of_content(file, record, every_byte=False)


def test_short_files_and_those_of_runs_that_ask_for_it_are_read_wholly(file):
    assert "blocks" not in record_of(file)
    file.write_bytes(file.read_bytes()[: 100 * SAMPLED])
    record = record_of(file, in_blocks=True)
    assert "blocks" not in record
    flip(file, 150)
    assert "SHA-256" in fault_of_content(file, record, every_byte=False)
