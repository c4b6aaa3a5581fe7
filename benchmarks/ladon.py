"""A Ladon-shaped model for benchmarks: as a bundle of ours, and with the same weights in the peer's own classes.

The peer is sc2bench's ``FPBasedResNetBottleneck`` or, where sc2bench is not installed, the same layers of compressai
put together in eager torch. ``image_to_bytes.py`` and ``cold_start.py`` run this as a script, in processes of their own.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

SIZE = (416, 416)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ONE = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def command(python, *arguments):
    """Return the command line that runs this file as a script."""
    return [python, "-W", "ignore", __file__, *map(str, arguments)]


def prepare(folder, pictures, size=SIZE):
    """Write ``folder/bundle`` and ``folder/peer.npz`` from a process of its own, so that this one stays small.

    Returns:
        The pictures; a drawn one where there are none.
    """
    subprocess.run(command(sys.executable, "make", folder, *size, *pictures), check=True, env={**os.environ, **ONE})
    return pictures or [folder / "drawn.png"]


def make(folder, height, width, *pictures):
    """Write the bundle with an 8-bit graph, and the peer's weights; untrained, the prior fitted to the pictures."""
    import numpy as np
    from PIL import Image

    import splitreg
    from splitreg import imaging
    from splitreg.assembly import save, testvectors
    from splitreg.publishing import Int8Edge, export
    from splitreg.publishing.int8 import quantise_graph
    from splitreg.publishing.onnx_export import export_edge

    folder = Path(folder)
    if not pictures:  # edges, gradients and texture, as large as Kodak's
        Image.fromarray(testvectors.image(512, 768)).save(folder / "drawn.png")
    model = splitreg.build(
        backbone="resnet50", cut="layer1", bottleneck={"name": "fp", "encoder": "gdn", "from": "image"}, codec="rans",
        heads=[{"name": "cls", "labels": 10}], input={"size": [int(height), int(width)], "mode": "resize"},
    )  # fmt: skip
    sources = pictures or [folder / "drawn.png"]
    inputs = [imaging.prepare(imaging.read(source), model.edge.coding.preprocess)[0] for source in sources]
    fit(model, inputs)
    model.freeze_tables()
    int8 = Int8Edge(
        data=quantise_graph(export_edge(model.edge).data, inputs), model_id=model.edge.coding.model_id, figures={}
    )
    save(model, folder / "bundle", exported=export(model, int8))
    arrays = {f"prior.{name}": value for name, value in model.bottleneck.prior.state_dict().items() if name[0] != "_"}
    for index, module in enumerate(module for module in model.bottleneck.encoder if [*module.parameters()]):
        if hasattr(module, "gamma"):
            arrays |= {f"{index}.gamma": module.gamma.square(), f"{index}.beta": module.beta.square() + 1e-6}
        else:
            arrays[f"{index}.weight"] = module.weight
    np.savez(folder / "peer.npz", **{name: value.detach().numpy() for name, value in arrays.items()})


def fit(model, inputs, steps=150):
    """Fit the prior to the latents of the pictures, as training would."""
    import torch

    prior = model.bottleneck.prior
    with torch.no_grad():
        latents = torch.cat([model.edge.latent(torch.from_numpy(image)[None])[:, :, ::4, ::4] for image in inputs])
    optimizer = torch.optim.Adam(prior.parameters(), 0.02)
    prior.train()
    for _ in range(steps):
        optimizer.zero_grad()
        _, likelihood = prior(latents)
        (-likelihood.log2().mean() + prior.loss() * 0.05).backward()
        optimizer.step()
    prior.eval()


def peer_bottleneck(path):
    """Return a function that encodes a normalised (1, 3, H, W) tensor to bytes, and what it is."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    try:
        from sc2bench.models.layer import FPBasedResNetBottleneck

        peer, what = FPBasedResNetBottleneck(), "sc2bench FPBasedResNetBottleneck"
        encoder, prior = peer.encoder, peer.entropy_bottleneck
    except ImportError:
        from compressai.entropy_models import EntropyBottleneck
        from compressai.layers import GDN1

        encoder = torch.nn.Sequential(
            torch.nn.Conv2d(3, 96, 5, 2, 2, bias=False), GDN1(96), torch.nn.Conv2d(96, 48, 5, 2, 2, bias=False), GDN1(48),
            torch.nn.Conv2d(48, 24, 2, bias=False),
        )  # fmt: skip
        peer, prior, what = None, EntropyBottleneck(24), "compressai's layers (sc2bench is not installed)"
    with torch.no_grad():
        for index, module in enumerate(encoder):
            if hasattr(module, "gamma"):
                module.gamma.copy_(module.gamma_reparam.init(arrays[f"{index}.gamma"]))
                module.beta.copy_(module.beta_reparam.init(arrays[f"{index}.beta"]))
            else:
                module.weight.copy_(arrays[f"{index}.weight"])
        state = {name.removeprefix("prior."): a for name, a in arrays.items() if name.startswith("prior.")}
        prior.load_state_dict(state, strict=False)
    if peer is None:
        encoder.eval(), prior.eval(), prior.update(force=True)
        return (lambda image: prior.compress(encoder(image))[0]), what
    peer.eval(), peer.update(force=True)
    return (lambda image: peer.encode(image)["strings"][0][0]), what


def peer(path, height, width):
    """Return picture (path or PIL image) -> bytes, with torchvision's usual transforms, and what it is."""
    import torch
    from PIL import Image
    from torchvision import transforms

    size = int(height), int(width)
    ready = transforms.Compose([transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    encode, what = peer_bottleneck(path)

    def run(picture):
        with torch.inference_mode():
            image = Image.open(picture).convert("RGB") if isinstance(picture, str) else picture
            return encode(ready(image)[None])

    return run, what


def ours(bundle, runtime="onnxruntime", precision="fp32"):
    """Return picture (path or PIL image) -> bytes, and what it is."""
    from splitreg.edge import EdgeEncoder

    encoder = EdgeEncoder.open(bundle, runtime=runtime, precision=precision, threads=1)
    return (lambda picture: encoder.encode(picture)[0]), f"splitreg.edge, {runtime}, {precision}"


def compiled(bundle, height, width):
    """Return picture (path or PIL image) -> bytes by the target c, compiled for this machine, and what it is."""
    import tempfile

    import numpy as np
    from PIL import Image
    from splitreg_targets.c_compiler import build_library
    from splitreg_targets.c_library import CLibrary
    from splitreg_targets.c_target import CTarget

    from splitreg.edge import EdgeSource

    exported = CTarget(size=(int(height), int(width))).export(EdgeSource.read(bundle))
    with tempfile.TemporaryDirectory() as folder:
        library = CLibrary(build_library(exported.files, "splitreg_model", Path(folder)), "splitreg_model")

    def run(picture):
        image = Image.open(picture).convert("RGB") if isinstance(picture, str) else picture
        return library.encode(np.asarray(image))

    return run, f"target c of {bundle}"


CONTESTANTS = {"peer": peer, "ours": ours, "compiled": compiled}


def once(who, picture, *arguments):
    """Encode one picture and print the number of bytes."""
    run, _ = CONTESTANTS[who](*arguments)
    print(len(run(picture)), flush=True)


def serve(who, *arguments):
    """Say what this is; for each line ("file" or "pixels", then a picture) print wall seconds, CPU seconds and bytes."""
    run, what = CONTESTANTS[who](*arguments)
    from PIL import Image

    print(what, flush=True)
    for line in sys.stdin:
        kind, picture = line.rstrip("\n").split(" ", 1)
        given = picture if kind == "file" else Image.open(picture).convert("RGB")
        begun = time.perf_counter(), time.process_time()
        data = run(given)
        print(time.perf_counter() - begun[0], time.process_time() - begun[1], len(data), flush=True)


if __name__ == "__main__":
    {"make": make, "serve": serve, "once": once}[sys.argv[1]](*sys.argv[2:])
