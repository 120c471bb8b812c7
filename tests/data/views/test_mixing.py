from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from rtk.data.views.augment import to_float
from rtk.data.views.augmix import augmix, augmix_draw_count, draw_augmix
from rtk.data.views.draws import uniforms
from rtk.data.views.mixing import cutmix, mixoe_targets, mixup, mixup_targets, openmix_targets
from rtk.data.views.pixmix import PixMixDraws, draw_pixmix, mix_add_, mix_multiply_, pixmix, pixmix_draw_count

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "pixmix.npz")
CHAIN = np.load(Path(__file__).parents[2] / "golden" / "pixmix_chain.npz")


def random_images(n, size=32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8))


def recorded_chain(prefix):
    """Recorded draws as PixMixDraws, with the images, the mixing pictures and the recorded results."""
    record = {key.removeprefix(prefix): CHAIN[key] for key in CHAIN.files if key.startswith(prefix)}
    first, partner = record["first_op_level_sign"], record["round_partner_op_level_sign"]
    draws = PixMixDraws(
        first_op=first[:, 0].astype(int),
        first_level=first[:, 1],
        first_sign=first[:, 2],
        rounds=record["k_drawn"],
        partner_op=partner[..., 0].astype(int),
        partner_level=partner[..., 1],
        partner_sign=partner[..., 2],
        mix_op=record["round_mix_op"],
        a=record["round_ab"][..., 0],
        b=record["round_ab"][..., 1],
    )
    images = torch.from_numpy(CHAIN["images_32_uint8"]).permute(0, 3, 1, 2).contiguous()
    return draws, images[record["orig_index"]], images[record["mixing_index"]], record["output_float_chw"]


def take(draws, index):
    return type(draws)(**{field.name: getattr(draws, field.name)[index] for field in fields(draws)})


@pytest.mark.parametrize("ab", range(4))
@pytest.mark.parametrize(("name", "mix"), [("add", mix_add_), ("multiply", mix_multiply_)])
def test_golden_mixing(name, mix, ab):
    x, y = (torch.from_numpy(GOLDEN[f"mix_img{i}_float_chw"]) for i in (1, 2))
    a, b = (torch.full((3,), value.item()) for value in GOLDEN["mix_ab"][ab])
    grey = (255 * y).round()
    assert (grey / 255 - y).abs().max() < 1e-7
    mixed = mix(x, grey.to(torch.uint8), a, b)
    np.testing.assert_allclose(mixed, GOLDEN[f"mix_{name}__ab{ab}__raw"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mixed.clamp(0, 1), GOLDEN[f"mix_{name}__ab{ab}__clipped"], rtol=0, atol=1e-5)


def test_golden_pixmix():
    draws, images, pictures, wanted = recorded_chain("pixmix_original__")
    np.testing.assert_allclose(pixmix(images, pictures, draws), wanted, rtol=0, atol=1e-5)


def test_golden_sure_plus_is_pixmix_with_the_last_round_only():
    draws, images, pictures, wanted = recorded_chain("sureplus__")
    rows, last = np.arange(len(images)), draws.rounds - 1
    columns = ("partner_op", "partner_level", "partner_sign", "mix_op", "a", "b")
    changed = {name: getattr(draws, name)[rows, last][:, None] for name in columns}
    single = PixMixDraws(
        first_op=draws.first_op,
        first_level=draws.first_level,
        first_sign=draws.first_sign,
        rounds=np.ones_like(draws.rounds),
        **changed,
    )
    np.testing.assert_allclose(pixmix(images, pictures, single), wanted, rtol=0, atol=1e-5)


def views(seed, epoch, ids):
    """PixMix and AugMix views of images that are themselves functions of their id."""
    images, pictures = random_images(40, 33)[ids], random_images(40, 33, seed=1)[ids]
    mixed = pixmix(images, pictures, draw_pixmix(uniforms(seed, epoch, ids, "pixmix", pixmix_draw_count())))
    return mixed, augmix(images, draw_augmix(uniforms(seed, epoch, ids, "augmix", augmix_draw_count())))


def test_views_do_not_depend_on_the_batch():
    ids = np.arange(40)
    together = views(0, 3, ids)
    order = np.random.default_rng(0).permutation(40)
    for rows in (order, order[:7], order[7:8]):
        for whole, part in zip(together, views(0, 3, ids[rows]), strict=True):
            # Not to the last bit: at odd sizes vectorised exp2 and its scalar tail may round differently.
            torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-6)


def test_another_epoch_or_seed_gives_other_views():
    ids = np.arange(40)
    for other in (views(0, 1, ids), views(1, 0, ids)):
        for before, after in zip(views(0, 0, ids), other, strict=True):
            assert ((before - after).abs().amax((1, 2, 3)) > 0.05).float().mean() > 0.75


def test_views_are_float_images():
    for view in views(0, 0, np.arange(40)):
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1


def test_draw_pixmix_has_the_published_distribution():
    draws = draw_pixmix(uniforms(0, 0, np.arange(20_000), "pixmix", pixmix_draw_count()))
    assert np.bincount(draws.rounds) / 20_000 == pytest.approx([0.2] * 5, abs=0.015)
    assert (draws.first_op == -1).mean() == pytest.approx(0.5, abs=0.02)
    assert (draws.partner_op == -1).mean() == pytest.approx(0.5, abs=0.02)
    assert draws.mix_op.mean() == pytest.approx(0.5, abs=0.02)
    assert draws.partner_op.max() == 8
    inside = draws.b > 0
    assert inside.mean() == pytest.approx(0.5, abs=0.02)
    assert stats.kstest(draws.a[inside], stats.beta(3, 1).cdf).pvalue > 1e-3
    assert stats.kstest(draws.b[inside], stats.beta(1, 3).cdf).pvalue > 1e-3
    assert stats.kstest(draws.a[~inside] - 1, stats.beta(1, 3).cdf).pvalue > 1e-3
    assert stats.kstest(-draws.b[~inside], stats.beta(1, 3).cdf).pvalue > 1e-3


def test_pixmix_without_rounds_or_operations_is_the_image():
    u = np.full((4, pixmix_draw_count(0)), 0.75)
    images = random_images(4)
    assert torch.equal(pixmix(images, images, draw_pixmix(u, k=0)), to_float(images))


def test_pixmix_takes_one_picture_for_all_rounds_or_one_for_each():
    draws = draw_pixmix(uniforms(0, 0, np.arange(16), "pixmix", pixmix_draw_count()))
    images, pictures = random_images(16), random_images(64, seed=1).view(16, 4, 3, 32, 32)
    repeated = pictures[:, :1].expand(-1, 4, -1, -1, -1)
    once = pixmix(images, pictures[:, 0], draws)
    assert torch.equal(pixmix(images, repeated, draws), once)
    only_first = take(draws, np.flatnonzero(draws.rounds <= 1))
    rows = torch.from_numpy(np.flatnonzero(draws.rounds <= 1))
    assert torch.equal(pixmix(images[rows], pictures[rows], only_first), once[rows])
    assert not torch.equal(pixmix(images, pictures, draws), once)


def test_augmix_draws():
    draws = draw_augmix(uniforms(0, 0, np.arange(5000), "augmix", augmix_draw_count()))
    np.testing.assert_allclose(draws.weights.sum(1), 1)
    depth = (draws.op >= 0).sum(-1)
    assert np.bincount(depth.ravel())[1:] / depth.size == pytest.approx([1 / 3] * 3, abs=0.02)
    assert (np.diff(draws.op >= 0, axis=-1).sum(-1) <= 1).all()
    assert draws.share.mean() == pytest.approx(0.5, abs=0.02)


def test_augmix_of_identities_is_the_image():
    images = random_images(5)
    draws = draw_augmix(uniforms(0, 0, np.arange(5), "augmix", augmix_draw_count()))
    draws.op[:] = -1
    torch.testing.assert_close(augmix(images, draws), to_float(images))


@pytest.mark.parametrize("alpha", [1e-4, 1e-3, 0.05, 1, 100])
def test_augmix_of_extreme_alphas_is_a_picture(alpha):
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    mixed = augmix(
        images, draw_augmix(uniforms(0, 0, np.arange(64), "augmix", augmix_draw_count()), alpha=alpha)
    )
    assert ((mixed >= 0) & (mixed <= 1)).all()


@pytest.mark.parametrize("beta", [1e-3, 0.01, 0.05, 3, 1000])
def test_pixmix_of_extreme_betas_is_a_picture(beta):
    """Black to the power of an exponent that float32 would round to 0 is black, not NaN."""
    images, pictures = torch.randint(0, 256, (2, 256, 3, 8, 8), dtype=torch.uint8)
    images[:, :, :4], pictures[:, :, :, :4] = 0, 0
    draws = draw_pixmix(uniforms(0, 0, np.arange(256), "pixmix", pixmix_draw_count()), beta=beta)
    assert (draws.a > 0).all()
    mixed = pixmix(images, pictures, draws)
    assert ((mixed >= 0) & (mixed <= 1)).all()


def test_mixup_is_convex_and_exact_at_its_ends():
    a, b = to_float(random_images(3)), to_float(random_images(3, seed=1))
    mixed = mixup(a, b, torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64))
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed[0], a[0])
    assert torch.equal(mixed[1], b[1])
    torch.testing.assert_close(mixed[2], 0.25 * a[2] + 0.75 * b[2])


def test_mixup_targets_reproduce_the_mixed_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 7, generator=generator, dtype=torch.float64)
    labels_a, labels_b = torch.randint(0, 7, (2, 8), generator=generator)
    lam = torch.rand(8, generator=generator, dtype=torch.float64)
    targets = mixup_targets(labels_a, labels_b, lam, 7)
    torch.testing.assert_close(targets.sum(1), torch.ones(8, dtype=torch.float64))
    losses = [F.cross_entropy(logits, y, reduction="none") for y in (labels_a, labels_b)]
    mixed = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(mixed, lam * losses[0] + (1 - lam) * losses[1])


def test_cutmix_pastes_a_box_and_returns_the_share_that_is_left():
    a, b = torch.zeros(4, 3, 20, 30), torch.ones(4, 3, 20, 30)
    lam = torch.tensor([1.0, 0.75, 0.75, 0.0])
    u = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [0.5, 0.5]])
    mixed, left = cutmix(a, b, lam, u)
    torch.testing.assert_close(1 - mixed.mean((1, 2, 3)), left)
    # Half of each side in the middle; a quarter of that in the corner; everything.
    torch.testing.assert_close(left, torch.tensor([1.0, 1 - 10 * 14 / 600, 1 - 5 * 7 / 600, 0.0]))
    assert mixed[1, :, 5:15, 8:22].eq(1).all()
    torch.testing.assert_close(mixup_targets(*torch.tensor([[0] * 4, [1] * 4]), left, 2)[:, 0], left)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixup(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2)), "images, lam"),
        (lambda: mixup(torch.zeros(2, 3).byte(), torch.zeros(2, 3).byte(), torch.zeros(2)), "images_a"),
        (
            lambda: cutmix(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.ones(1), torch.ones(1)),
            "u:",
        ),
        *[
            (lambda mix=mix, share=share: mix(torch.tensor([0.5, share])), "lam: got .*, wanted shares in")
            for share in (-0.1, 1.1, float("nan"))
            for mix in (
                lambda lam: mixup(torch.zeros(2, 3), torch.zeros(2, 3), lam),
                lambda lam: cutmix(*torch.zeros(2, 2, 3, 4, 4), lam, torch.zeros(2, 2)),
                lambda lam: mixup_targets(*torch.zeros(2, 2).long(), lam, 3),
                lambda lam: openmix_targets(torch.zeros(2).long(), lam, 3),
                lambda lam: mixoe_targets(torch.zeros(2).long(), lam, 3),
            )
        ],
        (lambda: draw_pixmix(np.zeros((2, 5))), "u: got shape"),
        (lambda: draw_pixmix(np.zeros((2, 5)), k=-1), "k: got -1"),
        (lambda: draw_augmix(np.zeros((2, 5)), width=0), "width, depth"),
        (lambda: pixmix(random_images(2), random_images(2, 16), recorded_chain("sureplus__")[0]), "pictures"),
        (lambda: augmix(random_images(2), draw_augmix(np.full((3, augmix_draw_count()), 0.5))), "draws: got"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    images, pictures = random_images(64), random_images(64, seed=1)
    draws = draw_pixmix(uniforms(0, 0, np.arange(64), "pixmix", pixmix_draw_count()))
    on_gpu = pixmix(images.cuda(), pictures.cuda(), draws).cpu()
    torch.testing.assert_close(on_gpu, pixmix(images, pictures, draws), rtol=0, atol=1e-5)
