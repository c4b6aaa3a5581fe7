import numpy as np
import pytest
import torch
from scipy.fft import dctn
from support.objective_toys import context, objective

from splitreg.errors import RecipeError, TrainingError
from splitreg.interfaces import TeacherCapabilities


def published(channel):
    """The formula as it is printed."""
    height, width = channel.shape
    rows, columns = (np.eye(size) - np.eye(size, k=1) for size in (height, width))
    return np.abs(dctn(0.5 * (channel @ columns + rows.T @ channel), norm="ortho"))


def term(latent, **options):
    (value,) = objective("compressibility", **options)(context(latent=latent)).values()
    return float(value)


def test_it_is_the_published_formula_channel_by_channel():
    latent = torch.randn(2, 3, 5, 7)
    wanted = np.mean([published(channel) for image in latent.double().numpy() for channel in image])
    assert term(latent, scale="none") == pytest.approx(wanted, rel=1e-5)
    assert term(latent, scale="none", weight=3.0) == pytest.approx(3 * wanted, rel=1e-5)


def test_a_smaller_latent_is_not_a_more_compressible_one():
    latent = torch.randn(2, 3, 5, 7)
    for scale, size in (("deviation", latent.numpy().std()), ("range", float(latent.max() - latent.min()))):
        assert term(latent / 8, scale=scale) == pytest.approx(term(latent, scale=scale), rel=1e-5)
        assert term(latent, scale=scale) == pytest.approx(term(latent, scale="none") / size, rel=1e-5)


def test_an_outlier_makes_nothing_compressible():
    latent = torch.randn(2, 3, 16, 16)
    spiked = latent.clone()
    spiked[0, 0, 3, 3] = 40.0
    assert term(spiked, scale="range") < 0.3 * term(latent, scale="range")
    assert term(spiked) > 0.6 * term(latent)


@pytest.mark.parametrize(
    ("channels", "rows", "columns"), [(8, 2, 4), (16, 4, 4), (1, 1, 1), (6, 2, 4), (9, 4, 4), (24, 4, 8)]
)
def test_tiled_it_is_that_of_one_picture(channels, rows, columns):
    latent = torch.randn(1, channels, 3, 5)
    picture = np.zeros((rows * 3, columns * 5))
    for index, channel in enumerate(latent[0].double().numpy()):
        row, column = divmod(index, columns)
        picture[row * 3 : row * 3 + 3, column * 5 : column * 5 + 5] = channel
    assert term(latent, scale="none", tiled=True) == pytest.approx(published(picture).mean(), rel=1e-5)


def test_smooth_latents_cost_less_and_signs_do_not_cancel():
    ramp = torch.linspace(-1, 1, 16).expand(1, 4, 16, 16)
    noise = ramp.flatten()[torch.randperm(1024, generator=torch.Generator().manual_seed(0))].reshape(ramp.shape)
    assert term(ramp) < 0.3 * term(noise)
    assert term(torch.cat([noise, -noise])) == pytest.approx(term(noise))


def test_its_gradient_makes_a_latent_smoother():
    latent = torch.randn(1, 2, 8, 8).requires_grad_()
    objective("compressibility")(context(latent=latent))["compressibility"].backward()
    assert term((latent - 5 * latent.grad).detach()) < term(latent.detach())


def test_there_must_be_a_latent():
    with pytest.raises(TrainingError, match="latent"):
        term(None)
    nothing = TeacherCapabilities(features={}, heads={}, latent=False)
    assert "latent" in objective("compressibility").problems(nothing, None)[0]
    with pytest.raises(RecipeError, match="weight.*-1"):
        objective("compressibility", weight=-1)
    with pytest.raises(RecipeError, match="deviation.*'unit'"):
        objective("compressibility", scale="unit")
