"""How much of the machine's matrix peak a work uses.

    share = F / (seconds of training x peak)
    peak    FLOP/s of bf16 products of two square matrices, the best of five fifths of a second
    F       FLOPs of the work's products, 2 m k n for [m, k] x [k, n]

torch counts the products of a training step on one text without padding. They are a polynomial of
the second degree in the tokens of the source and the target, which is summed over all rows and
epochs. With P parameters in matrices, T tokens, L layers of width d that is

    full              6 P T + 12 L T^2 d    forward, and backward to activations and weights
    frozen body       4 P T + 12 L T^2 d    no gradients of the weights
    below all that    2 P T +  4 L T^2 d    forward only, and once for all epochs: it gives the
    is trained                              same in every epoch (without dropout)

and the same for what a method adds. A little less in the first layer, below which nothing asks for
a gradient. Attention counts whole squares, of causal models too. What a side computes beyond F
(padding, frozen layers in every epoch) counts as time, not as FLOPs. What a side leaves out (behind
the last attention, adaptkit computes the token that is read alone) counts as if it were computed.

    python scripts/bench/flops.py [--cuda]     prints the peak in FLOP/s
"""

from __future__ import annotations

import sys
import time
from typing import Any

PLACES = (8, 16, 24)  # lengths at which products are counted: enough for the second degree
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices: a product of small ones is over too soon


def peak(device: str = "cpu") -> float:
    """Return the FLOP/s of bf16 products of two square matrices."""
    import torch

    size, best = SIDE[device], 0.0
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    one @ other
    for _ in range(5):
        wait()
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < 0.2:
            one @ other
            wait()
            count += 1
        best = max(best, count * 2 * size**3 / (time.perf_counter() - begun))
    return best


def of_step(model: Any, feature: dict[str, Any]) -> tuple[int, int]:
    """Return the FLOPs of a training step on one text: below all that is trained, and the rest."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter, below, bottom = FlopCounterMode(display=False), True, 0

    def note(module: Any, inputs: Any, output: Any) -> None:
        nonlocal below, bottom
        first = output[0] if isinstance(output, tuple) else output
        if torch.is_tensor(first):
            below = below and not first.requires_grad
            bottom = counter.get_total_flops() if below else bottom

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with counter:
        model(**{name: torch.tensor([value]) for name, value in feature.items()}).loss.backward()
    for hook in hooks:
        hook.remove()
    return bottom, counter.get_total_flops() - bottom


def of_work(model: Any, features: list[dict[str, Any]], epochs: int = 1, two: bool = False) -> int:
    """Return the FLOPs of training; `two`: the labels have a length of their own."""
    import numpy as np

    def terms(source: int, target: int) -> list[int]:
        return [1, source, target, source**2, target**2, source * target]

    def resized(source: int, target: int) -> dict[str, Any]:
        cut = {"labels": target or source}
        return {name: (value * source)[: cut.get(name, source)] if isinstance(value, list) else 0
                for name, value in features[0].items()}  # fmt: skip

    places = [(source, target) for source in PLACES for target in (PLACES if two else (0,))]
    counts = np.array([of_step(model, resized(*place)) for place in places], dtype=float)
    fitted = np.linalg.lstsq(np.array([terms(*p) for p in places], float), counts, rcond=None)[0]
    sizes = [(len(f["input_ids"]), len(f["labels"]) if two else 0) for f in features]
    bottom, rest = np.sum([terms(*size) for size in sizes], 0) @ fitted
    return round(bottom + epochs * rest)


if __name__ == "__main__":
    print(peak("cuda" if "--cuda" in sys.argv[1:] else "cpu"))
