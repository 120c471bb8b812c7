"""The images that a second pass learns from: those of all ranks together, spread evenly over the ranks."""

import pytest
import torch

from rtk.data.views.maker import View
from rtk.runtime.ranks import gather_rows, rank
from rtk.train.risen import chosen_views
from tests.train.ranks import run_on_ranks

ROWS = 6  # of each rank
RISES = {
    "one rank has all": [9, 8, 7, 6, 0, 0, 1, 1, 1, 1, 1, 1],
    "the other has all": [0, 0, 0, 0, 0, 0, 5, 1, 6, 7, 2, 8],
    "mixed": [3, 0, 4, 1, 0, 0, 0, 9, 0, 0, 0, 2],
    "three of one": [0, 5, 0, 6, 0, 7, 0, 0, 0, 0, 0, 8],
}


def order(parts):
    """Place in rank order of each image of the global batch: its micro-batches, and in these the ranks."""
    return [
        rank * ROWS + part * ROWS // parts + row
        for part in range(parts)
        for rank in range(2)
        for row in range(ROWS // parts)
    ]


def choose(share):
    """Ids, targets and pictures that all ranks end up with, in rank order, by case and micro-batches."""
    found = {}
    for parts in (1, 2):
        own = torch.tensor(order(parts)).argsort()[rank() * ROWS : (rank() + 1) * ROWS]  # in the global batch
        images = own.float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        mixed = View(images.unsqueeze(1), own.double().unsqueeze(1))
        views, before = {"clean": View(images, own * 2, own), "mixed": mixed}, torch.rand(ROWS)
        for case, rises in RISES.items():
            got = chosen_views(views, before, before + torch.tensor(rises)[own], share, parts)
            clean, mixed = got["clean"], got["mixed"]
            columns = (clean.ids, clean.targets, clean.images[:, 2, 1, 1], mixed.targets[:, 0])
            found[case, parts] = [gather_rows(column).tolist() for column in columns]
    return found


@pytest.mark.slow
def test_two_ranks_choose_from_all_images_and_share_them_evenly(tmp_path):
    """The chosen ones, in the order of the global batch, are cut into micro-batches, and these into ranks."""
    found = run_on_ranks(2, choose, 1 / 3, folder=tmp_path)
    for case, rises in RISES.items():
        first, second, third, fourth = sorted(
            torch.tensor(rises).sort(descending=True, stable=True).indices[:4].tolist()
        )
        for parts, wanted in ((1, [first, second, third, fourth]), (2, [first, third, second, fourth])):
            assert found[case, parts] == [wanted, [2 * i for i in wanted], wanted, wanted], (case, parts)


def test_one_process_takes_the_chosen_rows():
    views = {"clean": View(torch.rand(8, 3, 2, 2), torch.arange(8))}
    rises = torch.tensor([0.0, 3, 1, 0, 2, 0, 0, 4])
    got = chosen_views(views, torch.zeros(8), rises, 0.5)["clean"]
    assert got.targets.tolist() == [1, 2, 4, 7]
    assert got.ids is None
    assert torch.equal(got.images, views["clean"].images[[1, 2, 4, 7]])
