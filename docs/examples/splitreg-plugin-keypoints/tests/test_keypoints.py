"""Tests that are specific to this package; ``test_contracts.py`` runs the conformance suites."""

import numpy as np
import pytest
import torch
from splitreg_keypoints.average import Average
from splitreg_keypoints.corners import CORNERS, Corners
from splitreg_keypoints.head import Heatmaps, KeypointHead
from splitreg_keypoints.metric import CorrectKeypoints
from splitreg_keypoints.points import KeypointTarget, perfect
from torchvision import tv_tensors

from splitreg.data.transforms import Augment, FitInput
from splitreg.errors import DataError, RecipeError
from splitreg.imaging import Geometry, Preprocess
from splitreg.interfaces import FeatureSpec


def target(points, visible=None, size=(64, 64)):
    points = torch.tensor(points, dtype=torch.float32)
    visible = torch.ones(len(points), dtype=torch.bool) if visible is None else torch.tensor(visible)
    return KeypointTarget(points=tv_tensors.KeyPoints(points, canvas_size=size), visible=visible)


def certain(cells, stride=4, size=(16, 16)):
    """Heatmaps that are certain of one (row, column) per point."""
    logits = torch.full((1, len(cells), *size), -30.0)
    for i, (row, column) in enumerate(cells):
        logits[0, i, row, column] = 30.0
    return Heatmaps(logits=logits, stride=stride)


def head(**options):
    return KeypointHead({4: FeatureSpec(channels=6, stride=4)}, ("a", "b"), **options)


@pytest.mark.parametrize("decode", ["soft", "hard"])
def test_a_certain_heatmap_gives_the_middle_of_its_cell(decode):
    prediction = head(decode=decode).predict(certain([(0, 0), (3, 15)]))[0]
    assert np.allclose(prediction.points, [[2, 2], [62, 14]], atol=1e-3)
    assert np.allclose(prediction.scores, 1)


def test_the_loss_is_smallest_at_the_truth_and_ignores_what_is_not_seen():
    truth = target([[2, 2], [62, 14]])
    right, wrong = certain([(0, 0), (3, 15)]), certain([(0, 0), (9, 2)])
    assert sum(head().loss(right, [truth]).values()) < 1e-3 < sum(head().loss(wrong, [truth]).values())
    half = target([[2, 2], [float("nan"), 14]], visible=[True, False])
    assert sum(head().loss(wrong, [half]).values()) < 1e-3
    assert sum(head().loss(wrong, [target([[2, 2], [-3, 14]])]).values()) < 1e-3  # cropped out of the image


def test_points_are_transformed_with_the_image():
    sample = Corners(None, "val", count=3, size=48)[1]
    fitted = FitInput(Preprocess(size=(64, 96)))(sample)
    moved = fitted.targets["keypoints"]
    assert moved.points.canvas_size == (64, 96)
    back = Geometry(original=(48, 48), coded=(64, 96), mode="letterbox").points(moved.points.numpy())
    assert np.allclose(back, sample.targets["keypoints"].points.numpy(), atol=1e-3)


def test_a_crop_hides_the_points_that_it_leaves_out():
    torch.manual_seed(0)
    sample = Corners(None, "train", count=1)[0]
    zoomed = [Augment(flip=0, scale=(4, 4), colour=0)(sample).targets["keypoints"].seen() for _ in range(4)]
    assert sample.targets["keypoints"].seen().all() and not torch.stack(zoomed).all()


def test_the_corners_lie_on_the_squares_edge():
    """Inside each named corner is the square's colour, outside is the background's."""
    for index in range(8):
        sample = Corners(None, "train", count=8, size=64)[index]
        points = sample.targets["keypoints"].points.numpy()
        middle, image = points.mean(0), sample.array().astype(float).mean(-1)
        inner, outer = ((points + (middle - points) * share) for share in (0.25, -0.25))
        values = [image[tuple(np.clip(p[::-1].astype(int), 0, 63))] for p in (*inner, *outer)]
        assert np.ptp(values[:4]) < 60 and np.ptp(values[4:]) < 60
        assert abs(np.mean(values[:4]) - np.mean(values[4:])) > 15
        assert points[0, 0] < points[1, 0] and points[0, 1] < points[3, 1]  # names say where


def test_pck_counts_by_the_objects_extent():
    metric = CorrectKeypoints()
    truth = target([[10, 10], [30, 10], [30, 30], [10, 30]], visible=[True, True, True, False])
    prediction = perfect(truth, CORNERS)
    prediction.points[1] += [1.5, 0]  # 0.075 of the extent: right
    prediction.points[2] += [0, 4]  # 0.2: wrong
    prediction.points[3] += 100  # not seen: does not count
    metric.update([prediction], [truth])
    assert metric.compute() == {"pck": pytest.approx(2 / 3), "error": pytest.approx((0.075 + 0.2) / 3)}
    nothing = CorrectKeypoints()
    nothing.update([prediction], [target([[10, 10]] * 4, visible=[False] * 4)])
    assert np.isnan(nothing.compute()["pck"])


def test_a_prediction_comes_back_to_the_original_pixels_and_draws():
    prediction = perfect(target([[2, 18], [60, 40]]), ("a", "b")).restore(
        Geometry(original=(100, 200), coded=(64, 64), mode="letterbox")
    )
    assert np.allclose(prediction.points, [[6.25, 6.25], [187.5, 75]])
    blank = np.zeros((100, 200, 3), np.uint8)
    assert prediction.draw(blank)[:200].any() and not blank.any()
    assert prediction.to_json()["points"][0] == {"label": "a", "x": 6.25, "y": 6.25, "score": 1.0}


@pytest.mark.parametrize("source", [FeatureSpec(channels=6, stride=4), FeatureSpec(channels=3, stride=1)])
@pytest.mark.parametrize("side", [32, 37])
def test_average_restores_at_least_the_feature(source, side):
    bottleneck = Average(source, FeatureSpec(channels=6, stride=4)).eval()
    latent = bottleneck.analyse(torch.rand(1, source.channels, *[-(-side // source.stride)] * 2))
    assert latent.shape[-1] == -(-side // 8)
    assert bottleneck.synthesise(latent).shape[-1] >= -(-side // 4)


def test_averages_training_path_sees_what_the_symbols_carry():
    bottleneck = Average(FeatureSpec(channels=6, stride=4), FeatureSpec(channels=6, stride=4), bits=3).eval()
    x = torch.randn(2, 6, 8, 8)
    restored, rate = bottleneck(x)
    rule = bottleneck.freeze()
    sent = np.stack([rule.dequantise(rule.quantise(latent.detach().numpy())) for latent in bottleneck.analyse(x)])
    assert torch.allclose(restored, bottleneck.synthesise(torch.from_numpy(sent)), atol=1e-5)
    assert rate.tolist() == [3 * 8 * 4 * 4] * 2


def test_wrong_options_are_typed_errors():
    feature = FeatureSpec(channels=6, stride=4)
    for wrong in (
        lambda: head(decode="sfot"),
        lambda: head(hidden=0),
        lambda: KeypointHead({4: feature}, ()),
        lambda: Average(feature, feature, pool=3),
        lambda: Average(feature, feature, bits=0),
    ):
        with pytest.raises(RecipeError):
            wrong()
    with pytest.raises(DataError, match="'val'"):
        Corners(None, "vall")
