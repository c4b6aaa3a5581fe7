"""An audit of toy bundles: the attacker learns what there is to learn, and JPEG keeps to the bytes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support import toys
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as reference

from splitreg.assembly import build, save
from splitreg.audit import Attacker, AuditOptions, audit
from splitreg.audit.audit import jpeg_within, psnr
from splitreg.audit.similarity import multi_scale_ssim
from splitreg.recipe import Recipe
from splitreg.training.data import open_split

pytestmark = pytest.mark.integration


def smooth(seed=0, size=(192, 176)):
    noise = np.random.default_rng(seed).integers(0, 256, (12, 11, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))


def test_the_attacker_learns_what_the_latent_contains():
    torch.manual_seed(0)
    images = torch.stack([torch.full((3, 16, 24), float(v)) for v in range(0, 256, 16)]).to(torch.uint8)
    latents = images[:, :1, ::4, ::4].float() / 255
    attacker = Attacker(1, (4, 6), (16, 24), width=16, blocks=1)
    assert attacker.fit(latents, images, steps=150, batch_size=16) < 0.08
    assert attacker(latents).shape == images.shape and attacker.parameters_count > 1000
    assert Attacker(2, (5, 7), (33, 50), width=16, blocks=0)(torch.zeros(1, 2, 5, 7)).shape == (1, 3, 33, 50)


def test_an_attacker_that_learns_nothing_guesses_the_mean_image():
    """Also with values far outside of what is usual: its guess never becomes black for good."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 16, 24), generator=random, dtype=torch.uint8)
    latents = torch.randn(8, 4, 4, 6, generator=random)
    latents[0, 1], latents[:, 2] = 1e9, 0.0  # a channel that is hardly ever used, one that never is
    attacker = Attacker(4, (4, 6), (16, 24), width=16, blocks=1)
    attacker.fit(latents, images, steps=30, batch_size=4)
    mean, target = images.float().mean(0) / 255, images.float() / 255
    with torch.no_grad():
        torch.testing.assert_close(attacker.mean_image[0], mean)
        assert (attacker(latents) - target).abs().mean() < 1.05 * (mean - target).abs().mean()


def test_an_audit_of_a_bundle(tmp_path):
    registry = toys.registry()
    model = build(Recipe.from_mapping(toys.KEYS), registry=registry)
    save(model, tmp_path / "toy")
    recipe = Recipe.from_mapping({**toys.KEYS, "data": {"name": "toys", "count": 8}})
    train, val = (open_split(recipe, split, registry) for split in ("train", "val"))
    options = AuditOptions(steps=3, width=16, blocks=1, val_images=4)
    result = audit(tmp_path / "toy", tmp_path / "out", train, val, options, registry=registry)
    rows = {row.name: row for row in result.reconstructions}
    assert list(rows) == ["original", "packets", "jpeg", "mean image"] and result.images == 4
    assert rows["original"].psnr_db == 100 and rows["original"].distance == pytest.approx(0, abs=1e-6)
    assert rows["packets"].bytes > 20 and rows["packets"].psnr_db < 100
    assert all("top1" in row.metrics["toy"] for row in rows.values())
    plain = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert plain["attacker"]["steps"] == 3 and plain["attacker"]["parameters"] > 0
    assert "PSNR" in (tmp_path / "out" / "audit.md").read_text()
    with Image.open(tmp_path / "out" / "audit.png") as sheet:
        assert sheet.size[0] >= 3 * model.plan.preprocess.size[1]


def test_jpeg_keeps_to_the_bytes_and_uses_them():
    image = smooth()
    small, large = jpeg_within(image, 700), jpeg_within(image, 4000)
    assert small[1] <= 700 and 700 < large[1] <= 4000 and small[0].shape == image.shape
    assert psnr(large[0], image) > psnr(small[0], image) > 10
    assert jpeg_within(image, 10)[1] > 10  # no JPEG is that small


def test_similarity_is_that_of_torchmetrics():
    image = smooth()
    noisy = np.clip(image + np.random.default_rng(1).normal(0, 30, image.shape), 0, 255).astype(np.uint8)
    tensors = [torch.from_numpy(np.array(one)).permute(2, 0, 1)[None].float() for one in (noisy, image)]
    expected = float(reference(*tensors, data_range=255.0, kernel_size=11, sigma=1.5))
    assert multi_scale_ssim(noisy, image) == pytest.approx(expected, abs=0.02)
    assert multi_scale_ssim(image, image) == pytest.approx(1)
    assert multi_scale_ssim(image[:8, :8], image[:8, :8]) == 1  # smaller than the window
