"""Any part with any other: what the plan accepts works to the last byte, what cannot work is refused with a reason.

The whole product takes ``benchmarks/combinations.py`` half an hour; here every pair that meets directly.
"""

import importlib.util
from pathlib import Path

import pytest

import splitreg

_FILE = Path(__file__).parents[2] / "benchmarks" / "combinations.py"
_SPEC = importlib.util.spec_from_file_location("combinations", _FILE)
combinations = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(combinations)

REGISTRY = splitreg.discover()
BOTTLENECKS, CODECS, HEADS = (sorted(n for n in REGISTRY[k]) for k in ("bottleneck", "codec", "head"))
SMALL = "mobilenetv3_small_050"
CASES = [
    *((SMALL, bottleneck, codec, "cls") for bottleneck in BOTTLENECKS for codec in CODECS),
    *((SMALL, bottleneck, "zstd", head) for bottleneck in BOTTLENECKS for head in HEADS),
    *((backbone, "fp", "compressai", "seg") for backbone in combinations.BACKBONES),
]
#: What must be refused: the codec cannot carry these symbols.
REFUSED = {
    (bottleneck, codec)
    for bottleneck in ("fp", "shp", "mshp", "raw", "calibrated")
    for codec in ("png", "jpeg", "webp")
}
REFUSED |= {("raw", "rans"), ("raw", "compressai")}


@pytest.fixture(scope="module")
def dataset():
    return combinations.scenes()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_pairs_work_or_are_refused(case, dataset, tmp_path):
    *parts, head = case
    outcome = combinations.attempt(*parts, (head,), tmp_path, dataset)
    if (case[1], case[2]) in REFUSED:
        assert outcome.startswith("refused: codec")
    elif head in combinations.UNFIT:
        assert outcome.startswith("refused: ") and combinations.UNFIT[head] in outcome
    else:
        assert outcome == "ok"
