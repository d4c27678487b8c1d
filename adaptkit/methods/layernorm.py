"""LN-tuning: train the norms and the head only (Qi et al. 2022, arXiv:2211.08682).

    y = g (x - mean) / std + b,   g and b trained;   RMSNorm: y = g x / rms, g trained

All norms of the base model take part: those of the layers, of the embeddings, after the last
layer, and of queries and keys (Qwen3, Gemma 3).

Count: 2 H per norm; 2 H (2 L + 1) in BERT, 38,400 for BERT-base and 100,352 for BERT-large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adaptkit.adaptation import Adaptation, Context, no_op
from adaptkit.models.anatomy import norms


@dataclass(frozen=True)
class LayerNormTuning:
    """Train gain and shift of every norm."""

    def adapt(self, start: Adaptation, context: Context) -> Adaptation:
        """Freeze everything but the norms of the body and the head."""
        trained = norms(start.model) & start.loaded  # not of other methods' modules
        # The trained tensors are the body's own: nothing is left to fold in.
        return replace(start.only(lambda name: name in trained), merge=no_op)
