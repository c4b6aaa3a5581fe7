"""inversion: the share of the image that a linear attacker sees."""

import pytest
import torch
from splitreg_objectives.inversion import explained
from support.objective_toys import context, objective
from torch.nn import functional

from splitreg.errors import RecipeError, TrainingError


def images(seed=0):
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_it_is_one_for_the_image_itself_and_small_for_noise():
    image = images()
    colours = functional.adaptive_avg_pool2d(image, (8, 8))
    assert explained(colours, image, 1) > 0.99
    assert explained(3 * colours.flip(1) + 7, image, 1) > 0.99  # any linear map of it
    pixels = functional.pixel_unshuffle(functional.adaptive_avg_pool2d(image, (16, 16)), 2)
    assert explained(pixels, image, 2) > 0.99 > 0.9 > explained(colours, image, 2)
    noise = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert explained(noise, image, 1) < 3 * 27 / 512  # a few of 512 positions fit by chance
    assert explained(torch.zeros(8, 3, 8, 8), image, 1) == pytest.approx(0, abs=1e-5)


def test_an_encoder_learns_to_hide_what_it_need_not_keep():
    image, term = images(), objective("inversion", weight=1.0, detail=1)
    colours = functional.adaptive_avg_pool2d(image, (8, 8))
    latent = colours.clone().requires_grad_()
    optimizer = torch.optim.Adam([latent], lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        keep = (latent[:, 0] - colours[:, 0]).square().mean()  # the task needs the first channel only
        (10 * keep + term(context(latent=latent, images=image))["inversion"]).backward()
        optimizer.step()
    assert 0.3 < float(explained(latent.detach(), image, 1)) < 0.6


@pytest.mark.parametrize("options", [{"weight": -1}, {"weight": float("nan")}, {"detail": 0}, {"detail": 1.5}])
def test_options_out_of_range(options):
    with pytest.raises(RecipeError, match="inversion"):
        objective("inversion", **options)


def test_it_needs_the_latent():
    with pytest.raises(TrainingError, match="latent"):
        objective("inversion")(context())
