"""Specs of the targets; imports no torch."""

from splitreg.specs import specs_of

_target = specs_of("target", "splitreg_targets", api=1)

ONNX = _target("onnx", "onnx_target:OnnxTarget",
    "The graph for onnxruntime and OpenVINO; splitreg codes its latent.",
    "")  # fmt: skip
C = _target("c", "c_target:CTarget",
    "One C99 file: image in, packet out; no allocation, no dependency.",
    "")  # fmt: skip
WASM = _target("wasm", "wasm_target:WasmTarget",
    "WebAssembly with SIMD and an ES module, for browsers and Node.",
    "")  # fmt: skip
OPENVINO = _target("openvino", "openvino_target:OpenvinoTarget",
    "OpenVINO IR in float32, for programs that use OpenVINO without ONNX.",
    "")  # fmt: skip
EXECUTORCH = _target("executorch", "executorch_target:ExecutorchTarget",
    "ExecuTorch program in float32, for phones.",
    "")  # fmt: skip
LITERT = _target("litert", "litert_target:LitertTarget",
    "LiteRT (TensorFlow Lite) model in float32, for phones and microprocessors.",
    "")  # fmt: skip
