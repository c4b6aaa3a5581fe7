"""What the det head learns from."""

import pytest
import torch
from splitreg_heads.centres import cell_centres, centre_targets, focal_loss
from splitreg_heads.detection import CentreHead, CentreOutput
from torchvision import tv_tensors

from splitreg.specs import FeatureSpec
from splitreg.tasks import BoxTarget

SHAPE = torch.Size((2, 16, 24))
CPU = torch.device("cpu")


def truth(corners, labels, crowd=None):
    target = BoxTarget(
        boxes=tv_tensors.BoundingBoxes(
            torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(64, 96)
        ),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [False] * len(labels), dtype=torch.bool),
    )
    return centre_targets(target, SHAPE, 4, CPU)


def test_cells_are_row_by_row():
    assert cell_centres(2, 3, 4, CPU).tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]


def test_a_centre_is_one_in_its_own_class_and_cell():
    t = truth([[20, 8, 60, 40]], [1])
    assert t.objects == 1 and not t.heat[0].any()
    assert t.heat[1, 6, 10] == 1 and (t.heat == 1).sum() == 1  # centre (40, 24): cell row 6, column 10
    assert t.boxes[6 * 24 + 10].tolist() == [20, 8, 60, 40]
    assert not t.weight.view(16, 24)[:, :5].any()


def test_every_object_has_a_cell_however_small_and_at_the_border():
    t = truth([[95, 63, 96, 64], [0, 0, 1.5, 1.5]], [0, 0])
    assert t.heat[0, 15, 23] == 1 and t.heat[0, 0, 0] == 1
    assert (t.weight > 0).sum() == 2


def test_small_objects_win_shared_cells():
    t = truth([[30, 20, 34, 24], [0, 0, 64, 44]], [0, 1])  # the small one lies at the large one's middle
    assert t.boxes[5 * 24 + 8].tolist() == [30, 20, 34, 24]
    assert t.heat[1, 5, 8] == 1 and t.heat[0, 5, 8] == 1


def test_crowds_and_empty_boxes_are_no_objects():
    t = truth([[0, 0, 40, 40], [50, 10, 50, 30]], [1, 0], [True, False])
    assert t.objects == 0 and not t.heat.any() and not t.weight.any()
    assert t.ignored[1, :10, :10].all() and t.ignored.sum() == 100


def test_false_alarms_in_crowds_cost_nothing():
    logits = torch.full((1, *SHAPE), -30.0)
    logits[0, 1, 2, 2] = 10.0
    quiet = truth([[0, 0, 40, 40]], [1], [True])
    assert float(focal_loss(logits, quiet.heat[None], quiet.ignored[None])) == pytest.approx(0, abs=1e-6)
    assert float(focal_loss(logits, quiet.heat[None], torch.zeros_like(quiet.ignored)[None])) > 5


def test_an_object_inside_a_crowd_is_still_learned():
    t = truth([[0, 0, 40, 40], [8, 8, 24, 24]], [1, 1], [True, False])
    missed = focal_loss(torch.full((1, *SHAPE), -10.0), t.heat[None], t.ignored[None])
    assert float(missed) > 5


def test_focal_loss_by_hand():
    logits = torch.zeros(1, 1, 1, 3)
    heat = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    want = 0.25 * 0.693147 * (1 + 0.5**4 + 1)
    assert float(focal_loss(logits, heat, torch.zeros_like(heat, dtype=torch.bool))) == pytest.approx(want, rel=1e-5)


def head(**options):
    return CentreHead({8: FeatureSpec(channels=4, stride=8)}, ("a", "b"), **options)


def output_of(*objects):
    """Maps that say: (class, row, column, logit, distance in cells to each side)."""
    heat, sides = torch.full((1, *SHAPE), -9.0), torch.zeros(1, 4, 16, 24)
    for label, row, column, logit, distance in objects:
        heat[0, label, row, column] = logit
        sides[0, :, row, column] = torch.log(torch.tensor(distance))
    return CentreOutput(heat, sides, 4, (64, 96))


def test_a_peak_becomes_a_box_in_pixels():
    prediction = head().predict(output_of((1, 6, 10, 4.0, (2.0, 1.0, 3.0, 0.5))))[0]
    assert prediction.labels.tolist() == [1]
    assert prediction.boxes[0].tolist() == pytest.approx([42 - 8, 26 - 4, 42 + 12, 26 + 2], abs=1e-4)
    assert prediction.scores[0] == pytest.approx(0.982, abs=1e-3)


def test_boxes_are_clipped_neighbours_suppressed_and_classes_kept_apart():
    wide = (5.0, 5.0, 5.0, 5.0)
    peaks = [(0, 0, 0, 3.0, wide), (0, 0, 1, 2.0, wide), (1, 0, 0, 1.0, wide), (0, 0, 2, 2.5, wide)]
    prediction = head().predict(output_of(*peaks))[0]
    assert prediction.boxes.min() >= 0
    # column 1 is no peak; column 2 overlaps column 0 by 19 / 24 x 19 / 24 of the clipped boxes
    assert prediction.labels.tolist() == [0, 1]
    assert prediction.scores.tolist() == sorted(prediction.scores.tolist(), reverse=True)


def test_no_more_than_the_most():
    peaks = [(0, r, c, 1.0, (0.4, 0.4, 0.4, 0.4)) for r in range(0, 16, 3) for c in range(0, 24, 3)]
    assert len(head(most=5).predict(output_of(*peaks))[0].boxes) == 5
    assert len(head().predict(output_of(*peaks))[0].boxes) == len(peaks)


@pytest.mark.parametrize("noise", [0.0, 1e-6, -1e-6])
@pytest.mark.parametrize("step", [(0, 1), (1, 0)])
def test_rounding_does_not_choose_among_equal_neighbours(noise, step):
    far = (3.0, 3.0, 3.0, 3.0)
    flat = output_of((0, 6, 10, 1.0, far), (0, 6 + step[0], 10 + step[1], 1.0 + noise, far))
    prediction = head().predict(flat)[0]
    assert prediction.boxes.tolist() == [[30.0, 14.0, 54.0, 38.0]]  # always the first cell: centre (42, 26)
