"""Fuzz the packets of streams: ``python scripts/fuzz_streams.py [--packets N] [--seconds S] > fuzz.json``.

Inter and key frames of the golden corpus' clips are mutated and given to a decoder that is in the state before them. Half of
them keep their checksum: each must be refused with ``CorruptPacket`` (or ``KeyFrameNeeded``) and leave the state, so that
the true packet is decoded after it. The others get a checksum that fits: each must be refused, or decoded to a latent of
the stream's shape. Counted as failures are other exceptions, wrong latents, and packets that take longer than a second.

Prints JSON; exit status 1 where there is a failure.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import random
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from golden.corpus import PREPROCESS, Case, frames_of, make_codec, names, read, stream_of

from splitreg.coding import FrameDecoder, LatentCoding
from splitreg.errors import CorruptPacket

SLOW_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A decoder before a packet of a clip."""

    name: str
    decoder: FrameDecoder
    packet: bytes
    latent: np.ndarray


def branch(decoder: FrameDecoder) -> FrameDecoder:
    """Return a decoder in the same state that goes on by itself."""
    other = copy.copy(decoder)
    other._coders = [copy.copy(coder) for coder in decoder._coders]
    for coder in other._coders:
        coder._history = copy.deepcopy(coder._history)
    return other


def targets(case: Case) -> list[Target]:
    """Return a target for every packet of a case's clip."""
    coding = LatentCoding(codec=make_codec("rans"), preprocess=PREPROCESS, frozen=case.model, model_id=0xC0FFEE01)
    decoder = FrameDecoder(coding, case.latent.shape, stream=3)
    result = []
    for packet, frame in zip(stream_of(case), frames_of(case), strict=True):
        result.append(Target(name=case.name, decoder=branch(decoder), packet=packet, latent=case.model.restore(frame)))
        decoder.decode(packet)
    return result


def mutated(rng: random.Random, packet: bytes, others: Sequence[bytes]) -> bytes:
    """Flip, cut, insert, overwrite or splice."""
    body = bytearray(packet)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(6):
            case 0 if at < len(body):
                body[at] ^= 1 << rng.randrange(8)
            case 1:
                del body[at:]
            case 2:
                body[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                body[at : at + 8] = rng.choice((b"\0", b"\xff")) * rng.randrange(1, 9)
            case 4:
                body[at:] = rng.choice(others)[at:]
            case _:
                del body[at : at + rng.randrange(1, 5)]
    return bytes(body)


def fuzz(target: Target, rng: random.Random, others: Sequence[bytes], counts: collections.Counter[str]) -> None:
    """Try one packet."""
    data, fitting = mutated(rng, target.packet, others), rng.random() < 0.5
    decoder = target.decoder
    if fitting and len(data) >= 4:
        chain = decoder._stream if data[0] & 1 else decoder._chain
        data = data[:-4] + zlib.crc32(data[:-4], chain).to_bytes(4, "little")
        decoder = branch(decoder)
    if data in others:
        counts["true packets"] += 1
        return
    start = time.perf_counter()
    try:
        latent = decoder.decode(data)
        counts["decoded with a fitting checksum" if fitting else "FAILURE decoded"] += 1
        if latent.shape != target.latent.shape:
            counts["FAILURE wrong shape"] += 1
    except CorruptPacket:
        counts["refused"] += 1
    if time.perf_counter() - start > SLOW_SECONDS:
        counts["FAILURE slow"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, counts = random.Random(options.seed), collections.Counter[str]()
    cases = [case for case in map(read, names()) if "rans" in case.streams and case.latent.size < 2000]
    everything = [target for case in cases for target in targets(case)]
    others = [target.packet for target in everything]
    end, tried, first = time.monotonic() + options.seconds, 0, ""
    while tried < options.packets and time.monotonic() < end:
        target = rng.choice(everything)
        try:
            fuzz(target, rng, others, counts)
        except Exception as error:
            counts[f"FAILURE {type(error).__name__}"] += 1
            first = first or f"{target.name}: {error!r}"
        tried += 1
    for target in everything:  # all that was refused left the states as they were
        if not np.array_equal(target.decoder.decode(target.packet), target.latent):
            counts["FAILURE changed state"] += 1
    failures = sum(count for name, count in counts.items() if name.startswith("FAILURE"))
    print(
        json.dumps(
            {"packets": tried, "seed": options.seed, "failures": failures, "counts": counts, "first": first}, indent=1
        )
    )
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
