"""Count pictures that decode to other symbols than their encoder coded, over pairs of (encoder's runtime, decoder's runtime).

    python benchmarks/decode_failures.py --root DATA --images 200 > decode_failures.json

Ours: fp, shp, mshp. The runtime differs in the encoder network; tables and hyperprior networks are integers in numpy, whose
BLAS kernels and threads differ from worker to worker too. A failure is any bit of the received latent.
Peer: ScaleHyperprior and MeanScaleHyperprior of compressai, whose hyperprior networks run in floating point in the encoder's
and in the decoder's runtime (its transforms run in plain torch, once). A failure is any wrong symbol; means that differ in
their last digits are not counted.

All models are fitted for ``--fit`` steps on crops, so that scales spread (``rows_used``). A worker process a runtime; runtimes
that are not installed are left out. "kernels-2013" asks torch, oneDNN and OpenBLAS for the kernels of an older CPU.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OLD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
TWO = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
#: name -> library, threads, pictures a batch, variant, environment.
RUNTIMES = {
    "torch": ("torch", 1, 1, "", {}),
    "torch, 2 threads": ("torch", 2, 1, "", TWO),
    "torch, batch 8": ("torch", 1, 8, "", {}),
    "torch, channels last": ("torch", 1, 1, "channels-last", {}),
    "torch, no oneDNN": ("torch", 1, 1, "no-onednn", {}),
    "torch, kernels-2013": ("torch", 1, 1, "", OLD),
    "onnxruntime": ("onnxruntime", 1, 1, "", {}),
    "onnxruntime, 2 threads": ("onnxruntime", 2, 1, "", TWO),
    "openvino": ("openvino", 1, 1, "", {}),
}
OURS, PEERS = ("fp", "shp", "mshp"), ("compressai scale hyperprior", "compressai mean-scale hyperprior")
PEER_WIDTH, PEER_CHANNELS = 48, 72


def fitted(args) -> tuple[dict, dict]:
    """Fit all models on the same crops."""
    import torch
    from compressai.models import MeanScaleHyperprior, ScaleHyperprior
    from compressai.models.google import get_scale_table
    from hyperprior_rate import IMAGE, KINDS, OPTIONS, crops, fit, pictures

    images = pictures(args.root)
    ours, peers = {}, {}
    for name in OURS:
        torch.manual_seed(0)
        model = KINDS[name](IMAGE, IMAGE, **OPTIONS)
        fit(model, images, args.fit, whole=True, rate_lambda=0.01)
        ours[name] = model, model.freeze().to_arrays()  # once, as in a bundle: elsewhere the tables would be others
    for name, kind in zip(PEERS, (ScaleHyperprior, MeanScaleHyperprior), strict=True):
        torch.manual_seed(0)
        model = peers[name] = kind(PEER_WIDTH, PEER_CHANNELS).train()
        main = torch.optim.Adam([p for key, p in model.named_parameters() if not key.endswith("quantiles")], 1e-3)
        auxiliary = torch.optim.Adam([model.entropy_bottleneck.quantiles], 1e-2)
        generator = np.random.default_rng(1)
        for _ in range(args.fit):
            x = crops(images, 128, 4, generator) * 0.23 + 0.45
            output = model(x)
            bits = -sum(likelihood.log2().sum() for likelihood in output["likelihoods"].values())
            loss = 0.013 * 255**2 * (output["x_hat"] - x).square().mean() + bits / (4 * 128**2)
            main.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            main.step()
            auxiliary.zero_grad()
            model.aux_loss().backward()
            auxiliary.step()
        model.eval().update(get_scale_table(), force=True)
    pixels = crops(images, args.size, args.images, np.random.default_rng(2))
    with torch.no_grad():
        latents = {name: torch.cat([model.g_a(x[None] * 0.23 + 0.45) for x in pixels]) for name, model in peers.items()}
    return ours, {name: (model, latents[name]) for name, model in peers.items()} | {"pixels": pixels}


class Network:
    """A module in some runtime: (N, C, h, w) tensor in, tensor out, in batches."""

    def __init__(self, module, example, library: str, threads: int, batch: int, variant: str) -> None:
        import torch

        self.module, self.library, self.batch, self.variant = module.eval(), library, batch, variant
        if library == "torch":
            if variant == "channels-last":
                self.module = self.module.to(memory_format=torch.channels_last)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "network.onnx")
            torch.onnx.export(module, (example[:1],), path, input_names=["x"], dynamo=False)
            if library == "onnxruntime":
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = threads
                self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            else:
                import openvino

                wanted = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
                self.session = openvino.Core().compile_model(path, "CPU", wanted)

    def __call__(self, x):
        import torch

        found = []
        with torch.no_grad():
            for part in x.split(self.batch):
                if self.library == "onnxruntime":
                    found.append(torch.from_numpy(self.session.run(None, {"x": part.numpy()})[0]))
                elif self.library == "openvino":
                    found.append(torch.from_numpy(self.session(part.numpy())[0].copy()))
                elif self.variant == "channels-last":
                    found.append(self.module(part.to(memory_format=torch.channels_last)).contiguous())
                else:
                    found.append(self.module(part))
        return torch.cat(found)


class Ours:
    """A bottleneck whose encoder runs in a runtime."""

    def __init__(self, model, arrays, pixels, runtime) -> None:
        from splitreg_compressai.ans import CompressaiCodec

        from splitreg.coding import load_model

        self.tables, self.codec, self.pixels = load_model(arrays), CompressaiCodec(), pixels
        self.network = Network(model.encoder, pixels, *runtime)

    def encode(self):
        from splitreg.coding import encode_streams

        for latent in self.network(self.pixels).numpy():
            streams = encode_streams(self.tables, latent, self.codec)
            yield latent.shape, streams, digest(self.tables.restore(latent))

    def decode(self, shapes, streams):
        from splitreg.coding import decode_streams
        from splitreg.errors import CodingError

        found = []
        for shape, one in zip(shapes, streams, strict=True):
            try:
                found.append(digest(decode_streams(self.tables, one, shape, self.codec)))
            except CodingError as error:
                found.append(str(error))
        return found


class Peer:
    """A model of compressai whose hyperprior runs in a runtime."""

    def __init__(self, model, latents, runtime) -> None:
        import torch

        self.model, self.latents = model, latents
        self.means = latents.shape[1] * 2 == model.h_s(model.h_a(latents[:1])).shape[1]
        self.analysis = Network(model.h_a, latents, *runtime)
        with torch.no_grad():
            self.synthesis = Network(model.h_s, model.h_a(latents[:1]), *runtime)

    def predict(self, hyper):
        found = self.synthesis(hyper)
        scales, means = found.chunk(2, 1) if self.means else (found, 0 * found)
        return self.model.gaussian_conditional.build_indexes(scales), means

    def encode(self):
        prior, gaussian = self.model.entropy_bottleneck, self.model.gaussian_conditional
        hyper = self.analysis(self.latents if self.means else self.latents.abs())
        first = prior.compress(hyper)
        indexes, means = self.predict(prior.decompress(first, hyper.shape[-2:]))
        second = gaussian.compress(self.latents, indexes, means=means)
        symbols = gaussian.quantize(self.latents, "symbols", means).numpy()
        self.rows_used = int(indexes.unique().numel())
        for row in range(len(symbols)):
            yield tuple(hyper.shape[1:]), (first[row], second[row]), digest(symbols[row].astype(np.int32))

    def decode(self, shapes, streams):
        import torch
        from splitreg_compressai.ans import padded

        hyper = self.model.entropy_bottleneck.decompress([s[0] for s in streams], shapes[0][-2:])
        indexes, _ = self.predict(hyper)
        found = []
        for row, (_, second) in enumerate(streams):
            safe = padded(second, indexes[row].numel())  # its decoder would read beyond the stream
            symbols = self.model.gaussian_conditional.decompress([safe], indexes[row : row + 1], torch.float32)
            found.append(digest(symbols[0].numpy().astype(np.int32)))
        return found


def digest(array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def work(name: str, folder: Path, action: str) -> None:
    """Encode everything, or decode what every encoder wrote; results as JSON in the folder."""
    import torch

    library, threads, batch, variant, _ = RUNTIMES[name]
    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = variant != "no-onednn"
    ours, peers = torch.load(folder / "models.pt", weights_only=False)  # our own file of a minute ago
    runtime = (library, threads, batch, variant)
    coders = {key: Ours(*model, peers["pixels"], runtime) for key, model in ours.items()}
    coders |= {key: Peer(*peers[key], runtime) for key in PEERS}
    if action == "encode":
        found = {}
        for key, coder in coders.items():
            rows = [[shape, [s.hex() for s in streams], known] for shape, streams, known in coder.encode()]
            found[key] = {"rows": rows, "rows_used": getattr(coder, "rows_used", None)}
        (folder / f"{name}.json").write_text(json.dumps(found))
        return
    failures: dict = {key: {} for key in coders}
    seen: dict = {}  # many encoders write the same streams
    for file in sorted(folder.glob("*.json")):
        for key, content in json.loads(file.read_text()).items():
            shapes, streams, known = zip(*content["rows"], strict=True)
            same = (key, json.dumps(streams))
            if same not in seen:
                seen[same] = coders[key].decode(
                    [tuple(shape) for shape in shapes], [tuple(bytes.fromhex(s) for s in one) for one in streams]
                )
            received = seen[same]
            failures[key][file.stem] = sum(a != b for a, b in zip(received, known, strict=True))
    print(json.dumps(failures))


def run(name: str, folder: Path, action: str) -> str:
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--worker", name, "--folder", str(folder), "--action", action]
    environment = os.environ | one | RUNTIMES[name][4]
    print(action, name, file=sys.stderr, flush=True)
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("SPLITREG_DATA"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--fit", type=int, default=400, help="training steps of each model")
    for hidden in ("--worker", "--folder", "--action"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, Path(args.folder), args.action)
        return
    import torch

    torch.set_num_threads(1)
    names = [name for name, what in RUNTIMES.items() if importlib.util.find_spec(what[0])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.save(fitted(args), folder / "models.pt")
        for name in names:
            run(name, folder, "encode")
        encoded = json.loads((folder / f"{names[0]}.json").read_text())
        decoded = {name: json.loads(run(name, folder, "decode").splitlines()[-1]) for name in names}
        streams = {
            key: len({json.dumps([r[1] for r in json.loads((folder / f"{n}.json").read_text())[key]["rows"]]) for n in names})
            for key in encoded
        }  # fmt: skip
    table = {
        key: {encoder: {decoder: decoded[decoder][key][encoder] for decoder in names} for encoder in names}
        for key in encoded
    }
    print(json.dumps({
        "images": args.images, "size": args.size, "fit_steps": args.fit, "real": bool(args.root), "seed": 0,
        "torch": torch.__version__, "runtimes": names,
        "failures": {
            key: {
                "of": args.images * len(names) ** 2, "all": sum(sum(row.values()) for row in rows.values()),
                "worst_pair": max(max(row.values()) for row in rows.values()),
                "same_runtime": sum(rows[name][name] for name in names),
                "different_streams": streams[key], "rows_used": encoded[key]["rows_used"],
            }
            for key, rows in table.items()
        },
        "by_encoder_and_decoder": table,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
