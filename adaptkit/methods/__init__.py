"""METHODS: one file per adaptation method, named as in the literature.

These modules must not import torch at import time (a test checks it): they are read to answer
configuration mistakes at once. Torch modules with the formulas live in `adaptkit.layers`.
"""

from adaptkit.methods.adalora import AdaLoRA
from adaptkit.methods.bitfit import BitFit
from adaptkit.methods.chain import Chain
from adaptkit.methods.child_tuning import ChildTuning
from adaptkit.methods.compacter import Compacter
from adaptkit.methods.diff_pruning import DiffPruning
from adaptkit.methods.dora import DoRA
from adaptkit.methods.full import Full
from adaptkit.methods.hard_prompt import HardPrompt
from adaptkit.methods.houlsby import Houlsby
from adaptkit.methods.ia3 import IA3
from adaptkit.methods.layernorm import LayerNormTuning
from adaptkit.methods.lora import LoRA
from adaptkit.methods.parallel_adapter import ParallelAdapter
from adaptkit.methods.pfeiffer import Pfeiffer
from adaptkit.methods.pissa import PiSSA
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.probe import Probe
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.ptuning import PTuning
from adaptkit.methods.ptuning_v2 import PTuningV2
from adaptkit.methods.top_k import TopK
from adaptkit.methods.vera import VeRA

METHODS: dict[str, type] = {
    "full": Full,
    "child_tuning": ChildTuning,
    "lora": LoRA,
    "dora": DoRA,
    "pissa": PiSSA,
    "vera": VeRA,
    "adalora": AdaLoRA,
    "ia3": IA3,
    "bitfit": BitFit,
    "diff_pruning": DiffPruning,
    "layernorm": LayerNormTuning,
    "top_k": TopK,
    "probe": Probe,
    "hard_prompt": HardPrompt,
    "prompt": PromptTuning,
    "ptuning": PTuning,
    "prefix": PrefixTuning,
    "ptuning_v2": PTuningV2,
    "chain": Chain,
    "mam": Chain,  # prefix and parallel_adapter (He et al. 2022)
    "houlsby": Houlsby,
    "pfeiffer": Pfeiffer,
    "parallel_adapter": ParallelAdapter,
    "compacter": Compacter,
}
