"""Child networks: which weights matter most for a task, by their Fisher information."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adaptkit.adaptation import Context, Step


def fisher(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], context: Context, by_example: bool
) -> dict[str, Tensor]:
    """Return the mean squared gradient of every number of the parameters, in fp32.

    `by_example`: the mean over the training rows, of each row's own loss, without dropout.
    Otherwise as in the authors' code: the mean over the batches, of each batch's mean loss, with
    dropout, and with the gradient of each tensor clipped to norm 1 by itself.
    """
    found = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    before = model.training
    model.train(not by_example)
    count = 0
    with context.counting("rows seen for the Fisher information") as show:
        done = 0
        for batch in context.batches(1) if by_example else context.batches():
            model.zero_grad(set_to_none=True)
            context.loss(model, batch).backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    grad = parameter.grad.float()
                    if not by_example:
                        grad = grad / grad.norm().clamp(min=1.0)
                    found[name] += grad.square()
            count, done = count + 1, done + len(batch.rows)
            show(done, None)
    model.zero_grad(set_to_none=True)
    model.train(before)
    return {name: total / max(count, 1) for name, total in found.items()}


def largest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return masks of exactly round(share N) of all N numbers: the largest ones.

    Of equal numbers those that come first in the order of the names are taken.
    """
    names = list(scores)
    flat = torch.cat([scores[name].flatten() for name in names])
    wanted = round(share * len(flat))
    if wanted == 0:
        mask = torch.zeros_like(flat, dtype=torch.bool)
    else:
        least = flat.kthvalue(len(flat) - wanted + 1).values
        mask = flat > least
        equal = (flat == least).nonzero().squeeze(-1)
        mask[equal[: wanted - int(mask.sum())]] = True
    parts = mask.split([scores[name].numel() for name in names])
    return {n: part.view_as(scores[n]) for n, part in zip(names, parts, strict=True)}


class Child:
    """A fixed mask over some parameters: the other numbers keep their values, or are zero.

    The object is the hook before an update, and `after` is the hook after it. `outside_zero`: the
    other numbers are zero. `decay`: they go on decaying, if the optimizer has weight decay.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        masks: Mapping[str, Tensor],
        outside_zero: bool,
        decay: bool,
    ) -> None:
        self.parameters, self.masks, self.decay = parameters, dict(masks), decay
        if outside_zero:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.mul_(masks[name])
        self.kept = {name: p.detach().clone() for name, p in parameters.items()}

    def __call__(self, step: Step) -> None:
        """Mask the gradients."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad.mul_(self.masks[name])

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Put back what weight decay has moved outside the mask."""
        if self.decay:
            return
        for name, parameter in self.parameters.items():
            parameter.copy_(torch.where(self.masks[name], parameter, self.kept[name]))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks, and the values at the start."""
        masks = {f"mask.{name}": mask.to(torch.uint8) for name, mask in self.masks.items()}
        return {**masks, **{f"kept.{name}": kept for name, kept in self.kept.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""
        self.masks = {name: state[f"mask.{name}"].bool() for name in self.masks}
        self.kept = {name: state[f"kept.{name}"] for name in self.kept}


def mask_at_random(parameters: Mapping[str, nn.Parameter], share: float, seed: int) -> None:
    """Multiply gradients by M / share, M ~ Bernoulli(share); `seed` decides what is drawn."""
    generators: dict[torch.device, torch.Generator] = {}
    for parameter in parameters.values():
        if (grad := parameter.grad) is None:
            continue
        if grad.device not in generators:
            generators[grad.device] = torch.Generator(grad.device).manual_seed(seed)
        drawn = torch.rand(grad.shape, generator=generators[grad.device], device=grad.device)
        grad.mul_(drawn < share).div_(share)
