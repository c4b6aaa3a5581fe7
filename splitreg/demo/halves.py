"""Run the two halves of a bundle in two processes, and compare the predictions with those of one process."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splitreg.assembly import EdgeModel, SplitModel
from splitreg.errors import TrainingError
from splitreg.masks import decode_mask
from splitreg.tasks import Sample

#: Seconds that the server half may take.
MAX_SECONDS = 300
#: Relative and absolute difference of numbers, and share of pixels: libraries may compute a network differently in two
#: processes, with another number of threads for instance, and the last printed digit differs.
RELATIVE, ABSOLUTE, PIXELS = 1e-3, 0.02, 0.001


def agree(one: Any, other: Any) -> bool:
    """Whether two predictions as plain data are the same, up to rounding.

    >>> agree({"box": [60.06, 3.0]}, {"box": [60.07, 3.0]}), agree({"box": [60.06]}, {"box": [61.0]})
    (True, False)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        if {"size", "counts"} <= one.keys() and one.keys() == other.keys() and one["size"] == other["size"]:
            return float(np.mean(decode_mask(one) != decode_mask(other))) <= PIXELS
        return one.keys() == other.keys() and all(agree(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(one == other)


def check_halves(bundle: Path, model: SplitModel, samples: Sequence[Sample]) -> None:
    """Encode samples in this process, decode the packets in another one, and compare.

    Args:
        bundle: the published model.
        model: the same model.
        samples: images to send.

    Raises:
        TrainingError: the other process fails, or its predictions differ from the model's.
    """
    edge = EdgeModel.load(bundle)
    packets = [edge.encode(sample.array())[0] for sample in samples]
    stream = io.BytesIO()
    for packet in packets:
        stream.write(len(packet).to_bytes(4, "little") + packet)
    command = [sys.executable, "-m", "splitreg", "infer", str(bundle), "-", "--json"]
    done = subprocess.run(command, input=stream.getvalue(), capture_output=True, timeout=MAX_SECONDS, check=False)
    if done.returncode != 0:
        raise TrainingError(f"the server half failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for sample, packet, answer in zip(samples, packets, answers, strict=True):
        predictions = {name: p.to_json() for name, p in model.server.infer(packet)[0].items()}
        if not agree(json.loads(json.dumps(predictions)), answer["predictions"]):
            raise TrainingError(f"the server half predicts something else than this process for {sample.name}")
