import numpy as np

from splitreg.cli.tables import brief
from splitreg.predictions import MultiLabel


def test_labels_of_an_image_are_shown_by_name():
    prediction = MultiLabel(probabilities=np.array([0.2, 0.7, 0.9], np.float32), names=("bus", "car", "person"))
    assert brief(prediction) == "person 0.90, car 0.70"
