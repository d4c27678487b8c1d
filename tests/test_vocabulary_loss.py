"""Cross-entropy over a vocabulary in pieces: torch's values and gradients, and less memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from adaptkit.models import vocabulary_loss as module
from adaptkit.models.vocabulary_loss import vocabulary_loss

TOKENS, WORDS = 37, 101


def drawn(kind: torch.dtype, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(TOKENS, WORDS, generator=generator) * scale).to(kind)
    return logits.requires_grad_(), torch.randint(WORDS, (TOKENS,), generator=generator)


@pytest.mark.parametrize("numbers", [1, 5 * WORDS, 1 << 22])  # a token, five, all in a piece
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_are_torchs(kind, numbers, monkeypatch):
    monkeypatch.setattr(module, "NUMBERS", numbers)
    logits, target = drawn(kind)
    loss = vocabulary_loss(logits, target)
    (loss * 0.5).backward()
    other = logits.detach().clone().requires_grad_()
    expected = cross_entropy(other.float(), target, reduction="sum")
    (expected * 0.5).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-5)
    assert logits.grad.dtype == kind
    close = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[kind]
    torch.testing.assert_close(logits.grad.float(), other.grad.float(), rtol=close, atol=1e-7)


def test_large_logits_do_not_overflow():
    logits, target = drawn(torch.float32, 1e4)
    loss = vocabulary_loss(logits, target)
    loss.backward()
    torch.testing.assert_close(loss, cross_entropy(logits, target, reduction="sum"))
    assert torch.isfinite(logits.grad).all()


def test_no_tokens_are_no_loss():
    logits = torch.zeros(0, WORDS, requires_grad=True)
    loss = vocabulary_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.shape == (0, WORDS)


def test_only_one_number_per_token_is_kept():
    """What autograd keeps next to the logits themselves and the targets."""
    logits, target = drawn(torch.bfloat16)
    kept: list[torch.Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks:
        vocabulary_loss(logits, target)
    assert sum(t.numel() for t in kept if t is not logits and t.is_floating_point()
               and t.shape != logits.shape) == TOKENS  # fmt: skip
    assert not any(t.dtype == torch.float32 and t.shape == logits.shape for t in kept)
