"""Run the two halves of a bundle in two processes, and compare the predictions with those of one process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from splitreg.assembly import EdgeModel, SplitModel
from splitreg.errors import TrainingError
from splitreg.tasks import Sample

#: Seconds that the server half may take.
MAX_SECONDS = 300


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
        if answer["predictions"] != json.loads(json.dumps(predictions)):
            raise TrainingError(f"the server half predicts something else than this process for {sample.name}")
