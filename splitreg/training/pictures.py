"""Drawn predictions of validation images while a model is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from splitreg.assembly import Trainable
from splitreg.data.batches import Item, collate
from splitreg.data.classes import ClassMapping
from splitreg.data.loading import Source, seeded
from splitreg.data.transforms import FitInput
from splitreg.evaluation.examples import example, jpeg, sheet
from splitreg.evaluation.packets import spread

#: Folder of the sheets in that of the run.
PREDICTIONS = "predictions"


@torch.no_grad()
def predictions_jpeg(
    model: Trainable, source: Source, classes: Mapping[str, ClassMapping], count: int, device: torch.device
) -> bytes:
    """Return a sheet of images with their predictions and the truth, in the pixels of the network's input.

    Args:
        model: in evaluation mode.
        source: the validation set.
        classes: head -> classes of the set.
        count: number of images, spread over the set.
        device: device of the model.
    """
    fit = FitInput(model.plan.preprocess)
    rows = []
    for index in spread(len(source), count):
        with seeded(0):
            sample = source[index]
        geometry, sample = fit.geometry(sample), fit(sample)
        item = Item(sample=sample, geometry=geometry, index=index, image=sample.array())
        output = model(collate([item], model.plan.preprocess).images.to(device), dict.fromkeys(model.heads))
        predictions = {name: model.head(name).predict(raw)[0] for name, raw in output.outputs.items()}
        rows.append(example(model, sample, round(float(output.rate[0]) / 8), predictions, classes))
    return jpeg(sheet(rows, 320))
