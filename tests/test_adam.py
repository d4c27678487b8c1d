"""AdamW with and without bias correction, against a loop in plain Python; its state in a file."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch

from adaptkit.optimizers import AdamW

LR, BETA1, BETA2, EPSILON, DECAY = 0.1, 0.8, 0.99, 1e-3, 0.05
GRADIENTS = [0.3, -0.2, 0.1, 4.0, 0.0, 1e-4, -0.7, 0.05, 0.05, 0.05]


def by_hand(weight: float, corrected: bool) -> list[float]:
    """Return the weight after every update."""
    m = v = 0.0
    seen = []
    for t, gradient in enumerate(GRADIENTS, 1):
        m = BETA1 * m + (1 - BETA1) * gradient
        v = BETA2 * v + (1 - BETA2) * gradient**2
        one, two = (1 - BETA1**t, 1 - BETA2**t) if corrected else (1.0, 1.0)
        weight -= LR * ((m / one) / (math.sqrt(v / two) + EPSILON) + DECAY * weight)
        seen.append(weight)
    return seen


def built(corrected: bool, *parameters: torch.nn.Parameter) -> Any:
    settings = AdamW(
        LR, DECAY, beta1=BETA1, beta2=BETA2, epsilon=EPSILON, bias_correction=corrected
    )
    return settings.build([{"params": list(parameters), "lr": LR, "weight_decay": DECAY}])


def updated(optimizer: Any, weight: torch.nn.Parameter, gradient: float) -> float:
    weight.grad = torch.full_like(weight, gradient)
    optimizer.step()
    return weight.detach().flatten()[0].item()


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize(
    ("kind", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-6)], ids=str
)
def test_updates_are_those_of_a_loop(corrected: bool, kind: torch.dtype, error: float) -> None:
    weight = torch.nn.Parameter(torch.full((70,), 1.5, dtype=kind))  # a vector, and a rest
    optimizer = built(corrected, weight)
    found = [updated(optimizer, weight, gradient) for gradient in GRADIENTS]
    assert found == pytest.approx(by_hand(1.5, corrected), rel=0, abs=error)


def test_the_first_updates_are_larger() -> None:
    """Of a constant gradient: (1 - beta1^t) / sqrt(1 - beta2^t) times lr."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdamW(1.0, epsilon=1e-12, bias_correction=False).build(
        [{"params": [weight], "lr": 1.0, "weight_decay": 0.0}]
    )
    places = [0.0] + [-updated(optimizer, weight, 1.0) for _ in range(20)]
    steps = [after - before for before, after in itertools.pairwise(places)]
    assert steps[:2] == pytest.approx([3.162278, 4.249592], abs=1e-6)
    assert max(steps) == steps[11] == pytest.approx(6.568520, abs=1e-5)


def test_state_from_a_file_goes_on_bit_for_bit() -> None:
    def trained(interrupted: bool) -> torch.Tensor:
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(13))
        gradients = torch.randn(8, 13)
        optimizer = built(False, weight)
        for step, gradient in enumerate(gradients):
            if interrupted and step == 5:
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                optimizer = built(False, weight)
                optimizer.load_state_dict(torch.load(file, weights_only=True))
            weight.grad = gradient.clone()
            optimizer.step()
        return weight.detach()

    assert torch.equal(trained(False), trained(True))


def test_a_parameter_without_a_gradient_stays() -> None:
    still, weight = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = built(False, still, weight)
    updated(optimizer, weight, 1.0)
    assert torch.equal(still, torch.ones(3)) and not torch.equal(weight, torch.ones(3))
