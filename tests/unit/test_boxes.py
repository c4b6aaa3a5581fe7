import numpy as np

from splitreg.boxes import box_coverage, box_iou

FIRST = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [3, 3, 3, 3]])
SECOND = np.array([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])


def test_intersection_over_union():
    np.testing.assert_allclose(box_iou(FIRST, SECOND), [[1, 0.5, 0], [1 / 3, 0.2, 0], [0, 0, 0]])


def test_coverage_is_the_share_of_the_first_box():
    np.testing.assert_allclose(box_coverage(FIRST, SECOND), [[1, 0.5, 0], [0.5, 0.25, 0], [0, 0, 0]])
