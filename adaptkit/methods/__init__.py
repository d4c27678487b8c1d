"""METHODS: one file per adaptation method, named as in the literature.

These modules must not import torch at import time (a test checks it): they are read to answer
configuration mistakes at once. Torch modules with the formulas live in `adaptkit.layers`.
"""

from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.chain import Chain
from adaptkit.methods.full import Full
from adaptkit.methods.lora import LoRA
from adaptkit.methods.probe import Probe

METHODS: dict[str, type] = {
    "full": Full,
    "lora": LoRA,
    "bitfit": BitFit,
    "probe": Probe,
    "chain": Chain,
}
