"""Prompt vectors among the input embeddings (Lester et al. 2021, arXiv:2104.08691).

    X' = [X_:s ; P ; X_s:],   X [T, d] word embeddings,   P [P, d] learnt,   s: their place

The vectors enter where the words do: at the base model, or at the encoder of two stacks. Masks,
segments and positions are widened there, and of a single stack's output the P positions are taken
out again, so that the task's head sees as many positions as the text has: a pooler still reads
[CLS], GPT-2's classifier the last token, tags and spans stay aligned. The decoder of two stacks
reads the encoder's longer output. While a text is generated with a cache, the prompt is put in at
the first step and remembered by the cache.

s is 0, or 1 where the first token sums up the text, counted from the first real token of each row:
padding on the left stays in front of the prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.models.calls import cache_in, check_known, named

TEXT = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")


class Prompt(nn.Module):
    """N prompts of P vectors, and the hooks that put them into a body.

    `vectors` [N, P, d] learn, or an `encoder` makes them of parameters of its own until `freeze`
    keeps its last output; `anchors` are ids of real words between the first and second half of the
    vectors. A batch of N B rows holds every example N times in a row, once per prompt.
    """

    def __init__(
        self,
        vectors: Tensor | None = None,
        encoder: nn.Module | None = None,
        anchors: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.vectors = None if vectors is None else nn.Parameter(vectors)
        self.encoder = encoder
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("delta_vectors", None)
        self.skip = 0  # tokens of the text in front of the prompt
        self.start: int | Tensor | None = None  # column, of the call that is under way

    def keep(self, vectors: Tensor) -> None:
        """From now on use these vectors [N, P, d], which are saved; the encoder is dropped."""
        self.encoder = None
        self.delta_vectors = vectors.detach().clone()

    def freeze(self) -> None:
        """Keep what the encoder makes now."""
        self.keep(self.encoder())

    def current(self) -> Tensor:
        """Return the vectors [N, P, d]."""
        if self.encoder is not None:
            return self.encoder()
        return self.vectors if self.delta_vectors is None else self.delta_vectors

    def attach(self, body: nn.Module, decoder: nn.Module | None, skip: int) -> None:
        """Put the prompt in at every call of `body`, behind `skip` tokens of the text."""
        self.skip = skip
        body.register_forward_pre_hook(self._before, with_kwargs=True)
        if decoder is None:
            # What was put in last is taken out first.
            body.register_forward_hook(self._after, prepend=True)
        else:
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)

    def _before(self, body: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        inputs = named(body, args, kwargs)
        past = cache_in(inputs)
        later = past is not None and past.get_seq_length() > 0
        words = body.get_input_embeddings()
        embeds = inputs.get("inputs_embeds")
        if embeds is None:
            embeds = words(inputs["input_ids"])
        check_known(body, inputs, tuple(embeds.shape[:2]), TEXT)
        prompt = self.filled(words, embeds)
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        columns = self._place(mask, embeds)
        start = shared(columns)
        if mask is not None:
            inputs["attention_mask"] = spliced(mask, mask.new_ones(prompt.shape[:2]), start)
        if positions is not None:
            positions = positions.expand(embeds.shape[:2])
            inputs["position_ids"] = self._positions(positions, prompt.shape[1], columns, later)
        self.start = None if later else start
        if not later:
            types = inputs.get("token_type_ids")
            if types is not None:
                inputs["token_type_ids"] = spliced(types, types.new_zeros(prompt.shape[:2]), start)
            inputs["input_ids"] = None
            inputs["inputs_embeds"] = spliced(embeds, prompt.to(embeds.dtype), start)
        return (), inputs

    def filled(self, words: nn.Module, embeds: Tensor) -> Tensor:
        """Return vectors and anchors for every row, [B, P, d]."""
        vectors = self.current()
        vectors = vectors.repeat(len(embeds) // len(vectors), 1, 1)
        if self.anchors is None:
            return vectors
        anchors = words(self.anchors).to(vectors.dtype).expand(len(vectors), -1, -1)
        half = (vectors.shape[1] + 1) // 2
        return torch.cat([vectors[:, :half], anchors, vectors[:, half:]], 1)

    def _place(self, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return for every row the column [B, 1] before which the prompt goes."""
        if mask is None:
            return torch.full((len(like), 1), self.skip, device=like.device)
        return mask.bool().int().argmax(1, keepdim=True) + self.skip

    def _positions(self, positions: Tensor, extra: int, start: Tensor, later: bool) -> Tensor:
        if later:  # all of the step's tokens stand behind the prompt
            return positions + extra
        columns = torch.arange(positions.shape[1], device=positions.device)
        own = positions.gather(1, start.clamp(max=positions.shape[1] - 1))
        own = own + (start >= positions.shape[1])  # a text of one token, in front of the prompt
        fill = own + torch.arange(extra, device=positions.device)
        return spliced(positions + extra * (columns >= start), fill, start)

    def _after(self, body: nn.Module, args: tuple, output: Any) -> Any:
        if self.start is None:
            return output
        last = output["last_hidden_state"]
        extra = self.current_length()
        output["last_hidden_state"] = without(last, self.start, extra)
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(
                without(h, self.start, extra) for h in output["hidden_states"]
            )
        return output

    def current_length(self) -> int:
        """Return the number of tokens by which a text grows."""
        known = next(v for v in (self.delta_vectors, self.vectors, self.encoder) if v is not None)
        length = known.length if isinstance(known, PromptEncoder) else known.shape[1]
        return length + (0 if self.anchors is None else len(self.anchors))

    def _before_decoder(self, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        inputs = named(decoder, args, kwargs)
        mask = inputs.get("encoder_attention_mask")
        if mask is not None:
            ones = mask.new_ones(len(mask), self.current_length())
            inputs["encoder_attention_mask"] = spliced(mask, ones, self._place(mask, mask))
        return (), inputs


def spliced(values: Tensor, fill: Tensor, start: int | Tensor) -> Tensor:
    """Put fill [B, P, ...] before column start, or [B, 1], of values [B, T, ...]."""
    fill = fill.to(values.dtype)
    if isinstance(start, int):
        return torch.cat([values[:, :start], fill, values[:, start:]], 1)
    length, extra = values.shape[1], fill.shape[1]
    columns = torch.arange(length + extra, device=values.device)
    behind = columns - start
    order = torch.where(behind < 0, columns, columns - extra)
    order = torch.where((behind >= 0) & (behind < extra), length + behind, order)
    return picked(torch.cat([values, fill], 1), order)


def without(values: Tensor, start: int | Tensor, extra: int) -> Tensor:
    """Take `extra` columns from column start, or [B, 1], on out of values [B, T, ...]."""
    if isinstance(start, int):
        rest = values.shape[1] - start - extra
        before, _, behind = values.split([start, extra, rest], 1)  # one gradient, not one a slice
        return torch.cat([before, behind], 1)
    columns = torch.arange(values.shape[1] - extra, device=values.device)
    return picked(values, columns + extra * (columns >= start))


def shared(columns: Tensor) -> int | Tensor:
    """Return the one column of all rows [B, 1]: slices have a cheaper gradient than an index.

    The columns themselves where rows differ, on a GPU, which would have to be waited for, and of
    fake tensors (a plan that counts operations), which hold no numbers.
    """
    if type(columns) is not Tensor or columns.device.type != "cpu":
        return columns
    first = int(columns[0])
    return first if bool((columns == first).all()) else columns


def picked(values: Tensor, order: Tensor) -> Tensor:
    """Return the columns order [B, S] of values [B, T, ...]."""
    rows = torch.arange(len(values), device=values.device)
    return values[rows.unsqueeze(1), order]  # gather needs an index of the whole shape: slower


class PromptEncoder(nn.Module):
    """P = MLP(BiLSTM(E)) [1, P, d] (Liu et al. 2021, arXiv:2103.10385); all of it in fp32.

    E [P, d] standard normal; LSTM of two layers, d / 2 wide in each direction; MLP: Linear d -> d,
    ReLU, Linear d -> d. Maps start as in torch, uniform within 1 / sqrt(fan in) (LSTM: of its
    width), but from `generator`. Without the LSTM: P = MLP(E).
    """

    def __init__(
        self,
        length: int,
        width: int,
        recurrent: bool,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.length, on = length, {"device": device}
        self.embedding = nn.Parameter(torch.randn(length, width, generator=generator).to(device))
        self.lstm = (
            nn.LSTM(width, width // 2, num_layers=2, bidirectional=True, batch_first=True, **on)
            if recurrent
            else None
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, width, **on), nn.ReLU(), nn.Linear(width, width, **on)
        )
        for module, fan_in in ((self.lstm, width // 2), (self.mlp, width)):
            for tensor in () if module is None else module.parameters():
                drawn = torch.rand(tensor.shape, generator=generator) * 2 - 1
                tensor.data.copy_(drawn * fan_in**-0.5)

    def forward(self) -> Tensor:
        """Return the vectors [1, P, d]."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            inputs = self.embedding[None]
            if self.lstm is not None:
                inputs, _ = self.lstm(inputs)
            return self.mlp(inputs)
