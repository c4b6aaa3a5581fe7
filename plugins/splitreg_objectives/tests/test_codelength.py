"""code-length: the estimate follows the bytes of real PNG and JPEG files, and training on it saves them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from splitreg_classic.blocks import quantisation_table
from splitreg_classic.tiling import tile
from splitreg_objectives.codelength import CodeLength, jpeg_bits, png_bits

from splitreg.errors import RecipeError, TrainingError
from splitreg.interfaces import StepContext


def context(latent, symbols=None):
    return StepContext(
        losses={}, rate=torch.zeros(len(latent)), images=torch.zeros(1), features={}, teacher=None, progress=0.0,
        latent=latent, symbols=symbols,
    )  # fmt: skip


def smooth(latent, passes):
    for _ in range(passes):
        latent = torch.nn.functional.avg_pool2d(latent, 3, 1, 1, count_include_pad=False)
    return latent


def latents():
    """Latents of several amplitudes, smoothness, and differences between channels."""
    generator = torch.Generator().manual_seed(0)
    for amplitude in (6.0, 20.0, 50.0):  # below, a JPEG file is mostly its header
        for passes in (0, 1, 3):
            for uneven in (0.0, 2.0):
                latent = smooth(torch.randn(4, 16, 16, 16, generator=generator), passes)
                latent = latent / latent.std() * (uneven * torch.randn(16, 1, 1, generator=generator)).exp()
                yield (128 + amplitude * latent / latent.std()).clamp(0, 255)


def file_bits(latent, kind, **options):
    sizes = []
    for symbols in latent.round().to(torch.int32).numpy():
        stream = io.BytesIO()
        Image.fromarray(tile(symbols).astype(np.uint8)).save(stream, kind, optimize=True, **options)
        sizes.append(stream.tell())
    return 8 * np.mean(sizes) / latent[0].numel()


@pytest.mark.parametrize(("kind", "estimate"), [
    ("PNG", png_bits), ("JPEG", lambda symbols: jpeg_bits(symbols, quantisation_table(85))),
])  # fmt: skip
def test_the_estimate_follows_real_files(kind, estimate):
    options = {"quality": 85} if kind == "JPEG" else {}
    real = [file_bits(latent, kind, **options) for latent in latents()]
    with torch.no_grad():
        estimated = [float(estimate(latent)) for latent in latents()]
    ranks = np.corrcoef(np.argsort(np.argsort(real)), np.argsort(np.argsort(estimated)))[0, 1]
    assert ranks > 0.95, (real, estimated)
    assert np.corrcoef(np.log(real), np.log(estimated))[0, 1] > 0.95


@pytest.mark.parametrize("coder", ["png", "jpeg", "both"])
def test_training_on_it_saves_bytes_of_both(coder):
    torch.manual_seed(0)
    original = smooth(torch.randn(2, 16, 16, 16), 1)
    latent = original.clone().requires_grad_()
    objective, optimizer = CodeLength([], weight=0.03, coder=coder), torch.optim.Adam([latent], 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        terms = objective(context(latent))
        (sum(terms.values()) + (latent - original).square().mean()).backward()
        optimizer.step()

    def eight_bits(values):
        return (values - values.min()) / (values.max() - values.min()) * 255

    for kind, options in (("PNG", {}), ("JPEG", {"quality": 90})):
        before, after = (file_bits(eight_bits(x.detach()), kind, **options) for x in (original, latent))
        assert after < 0.95 * before, kind


def test_the_scale_of_the_latent_does_not_matter():
    latent = smooth(torch.randn(2, 8, 16, 16), 1)
    with torch.no_grad():
        one, two = (
            float(sum(CodeLength([], weight=1.0).eval()(context(x)).values())) for x in (latent, 7 * latent - 3)
        )
    assert one == pytest.approx(two, rel=1e-3)


def test_symbols_of_a_bottleneck_replace_the_range_of_the_latent():
    latent = smooth(torch.randn(2, 8, 16, 16), 1)
    objective = CodeLength([], weight=1.0, coder="png").eval()
    with torch.no_grad():
        few, many = (float(objective(context(latent, 128 + scale * latent))["png"]) for scale in (4.0, 32.0))
    assert many - few == pytest.approx(3, abs=0.3)  # eight times as many levels are three bits
    scale = torch.tensor(4.0, requires_grad=True)
    objective.train()(context(latent, 128 + scale * latent))["png"].backward()
    assert scale.grad > 0


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 17)])
@pytest.mark.parametrize("channels", [1, 5, 16])
def test_any_size_has_finite_lengths_and_gradients(size, channels):
    latent = torch.randn(2, channels, *size).requires_grad_()
    terms = CodeLength([], percentile=99.0)(context(latent))
    sum(terms.values()).backward()
    assert set(terms) == {"png", "jpeg"} and all(torch.isfinite(term) and term >= 0 for term in terms.values())
    assert torch.isfinite(latent.grad).all()


def test_a_constant_latent_costs_almost_nothing():
    with torch.no_grad():
        terms = CodeLength([], weight=1.0).eval()(context(torch.full((2, 4, 16, 16), 3.0)))
    assert sum(terms.values()) < 0.01


@pytest.mark.parametrize("options", [
    {"weight": -1.0}, {"coder": "gif"}, {"quality": 0}, {"bits": 9}, {"percentile": 50.0},
])  # fmt: skip
def test_options_out_of_range(options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        CodeLength([], **options)


def test_it_needs_a_latent():
    with pytest.raises(TrainingError, match="latent"):
        CodeLength([])(
            StepContext(losses={}, rate=torch.zeros(1), images=torch.zeros(1), features={}, teacher=None, progress=0.0)
        )
