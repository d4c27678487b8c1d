"""A model as one ONNX graph: written by torch's own exporter, read by onnxruntime.

    inputs    those of the task's batches, whole numbers [batch, sequence]; both axes are free
    outputs   those by which a head is compared: logits, or start_logits and end_logits

Whatever happens during the forward pass is in the graph: pooling, adapters, prompts, and the moving
of padding. So methods that cannot be merged into the weights are exported as well.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from adaptkit.errors import AdaptError, invalid, out_of_memory

GRAPH = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 1_500_000_000  # bytes of weights in one file; the format allows 2 GB
COLOURS = re.compile(r"\x1b\[[\d;]*m")


class Positional(nn.Module):
    """A model whose inputs are given by position and whose outputs are a tuple, as ONNX has it."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the named outputs."""
        found = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.outputs)


class Graph(nn.Module):
    """A graph in the place of the model that it was made of; called with the inputs by name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self.session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.reads = [one.name for one in self.session.get_inputs()]
        self.gives = [one.name for one in self.session.get_outputs()]

    def forward(self, **inputs: Tensor) -> Any:
        """Return the outputs by name."""
        found = self.session.run(None, {name: inputs[name].numpy() for name in self.reads})
        tensors = (torch.from_numpy(values) for values in found)
        return ModelOutput(zip(self.gives, tensors, strict=True))


def check_installed() -> None:
    """Reject the format if a package that it needs is not installed.

    Raises:
        ConfigError: it names the packages and what installs them.
    """
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        several = "s" * (len(lacking) > 1)
        raise invalid("--format", "onnx", f"needs the package{several} {', '.join(lacking)}",
                      "pip install 'adaptkit[onnx]'")  # fmt: skip


@torch.no_grad()
def write_graph(
    model: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path
) -> None:
    """Write a model as an ONNX graph; weights too large for one file lie beside it.

    inputs: an example [B, T], with B and T of 2 or more and padding in it.

    Raises:
        AdaptError: torch's exporter cannot express it.
    """
    names = list(inputs)
    axes = tuple({0: "batch", 1: _length_of(name)} for name in names)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # onnxscript 0.6 prints
            program: Any = torch.onnx.export(
                Positional(model.eval(), names, outputs), tuple(inputs.values()), dynamo=True,
                dynamic_shapes=(axes,), input_names=names, output_names=list(outputs),
                verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds
        if out_of_memory(error):
            raise
        raise AdaptError(
            f"--format=onnx: torch cannot write this {type(model).__name__} as an ONNX graph "
            f"({_reason(error)}). Use --format merged or peft."
        ) from error
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    program.save(path, external_data=size > LARGEST)


def _length_of(name: str) -> str:
    return "decoder_sequence" if name.startswith("decoder_") else "sequence"


def _reason(error: BaseException) -> str:
    """Return the first lines of what an exporter's exception began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[:2]).rstrip(".")[:200]
