"""Prompt vectors among the input embeddings (Lester et al. 2021, arXiv:2104.08691).

    X' = [X_:s ; P ; X_s:],   X [T, d] word embeddings,   P [P, d] trained,   s: the column of P

The vectors enter with the words: at the base model, or at the encoder of two stacks. Masks,
segments and positions are widened there. The P positions are taken out of a single stack's output,
so the task's head sees as many positions as the text has: a pooler still reads [CLS], GPT-2's
classifier the last token, tags and spans stay aligned. The decoder of two stacks reads the
encoder's longer output. When a text is generated with a cache, the prompt is put in at the first
step and the cache remembers it.

s is 0, or 1 if the first token sums up the text, counted from the first real token of each row:
padding on the left stays in front of the prompt.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from adaptkit.models.body import words_of
from adaptkit.models.calls import cache_in, check_known, named

TEXT = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")


class Prompt(nn.Module):
    """N prompts of P vectors, and the hooks that put them into a body.

    `vectors` [N, P, d] train, or an `encoder` computes them from its own parameters until `freeze`
    keeps its last output. `anchors` are ids of real words between the first and second half of the
    vectors. A batch of N B rows holds every example N times in a row, once per prompt.

    `inside`: the text has places for the vectors: in `input_ids`, -1 is that of the first vector,
    -2 that of the second. Nothing gets longer then.
    """

    anchors: Tensor | None
    delta_vectors: Tensor | None

    def __init__(
        self,
        vectors: Tensor | None = None,
        encoder: PromptEncoder | None = None,
        anchors: Tensor | None = None,
        inside: bool = False,
    ) -> None:
        super().__init__()
        self.inside = inside
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
        """Keep the encoder's present output."""
        self.keep(self.current())

    def current(self) -> Tensor:
        """Return the vectors [N, P, d]."""
        if self.encoder is not None:
            return self.encoder()
        return cast(Tensor, self.vectors if self.delta_vectors is None else self.delta_vectors)

    def attach(self, body: nn.Module, decoder: nn.Module | None, skip: int) -> None:
        """Put the prompt in at every call of `body`, after `skip` tokens of the text."""
        if self.inside:
            body.register_forward_pre_hook(self._in_places, with_kwargs=True)
            return
        self.skip = skip
        body.register_forward_pre_hook(self._before, with_kwargs=True)
        if decoder is None:
            # The prompt that was put in last is taken out first.
            body.register_forward_hook(self._after, prepend=True)
        else:
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)

    def _before(
        self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        inputs = named(body, args, kwargs)
        past = cache_in(inputs)
        later = past is not None and past.get_seq_length() > 0
        words = words_of(body)
        embeds = inputs.get("inputs_embeds")
        if embeds is None:
            embeds = words(inputs["input_ids"])
        check_known(body, inputs, tuple(embeds.shape[:2]), TEXT)
        prompt = self.filled(words, embeds)
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        columns = self._columns(mask, embeds)
        start = single(columns)
        if mask is not None:
            inputs["attention_mask"] = splice(mask, mask.new_ones(prompt.shape[:2]), start)
        if positions is not None:
            positions = positions.expand(embeds.shape[:2])
            inputs["position_ids"] = self._positions(positions, prompt.shape[1], columns, later)
        self.start = None if later else start
        if not later:
            types = inputs.get("token_type_ids")
            if types is not None:
                inputs["token_type_ids"] = splice(types, types.new_zeros(prompt.shape[:2]), start)
            inputs["input_ids"] = None
            inputs["inputs_embeds"] = splice(embeds, prompt.to(embeds.dtype), start)
        return (), inputs

    def _in_places(
        self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        inputs = named(body, args, kwargs)
        ids = inputs["input_ids"]
        embeds = words_of(body)(ids.clamp(min=0))
        (vectors,) = self.current()
        placed = vectors[(-1 - ids).clamp(min=0)].to(embeds.dtype)
        inputs["inputs_embeds"] = torch.where((ids < 0)[..., None], placed, embeds)
        inputs["input_ids"] = None
        return (), inputs

    def filled(self, words: nn.Module, embeds: Tensor) -> Tensor:
        """Return vectors and anchors for every row of embeds [B, T, d]: [B, P, d]."""
        vectors = self.current()
        vectors = vectors.repeat(embeds.shape[0] // vectors.shape[0], 1, 1)
        if self.anchors is None:
            return vectors
        anchors = words(self.anchors).to(vectors.dtype).expand(vectors.shape[0], -1, -1)
        half = (vectors.shape[1] + 1) // 2
        return torch.cat([vectors[:, :half], anchors, vectors[:, half:]], 1)

    def _columns(self, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return for every row the column [B, 1] before which the prompt goes."""
        if mask is None:
            return torch.full((like.shape[0], 1), self.skip, device=like.device)
        return mask.bool().int().argmax(1, keepdim=True) + self.skip

    def _positions(self, positions: Tensor, extra: int, start: Tensor, later: bool) -> Tensor:
        if later:  # all of the step's tokens follow the prompt
            return positions + extra
        length = positions.shape[1]
        columns = torch.arange(length, device=positions.device)
        first = positions.gather(1, start.clamp(max=length - 1))
        first = torch.where(start < length, first, first + 1)  # one token, in front of the prompt
        fill = first + torch.arange(extra, device=positions.device)
        return splice(torch.where(columns < start, positions, positions + extra), fill, start)

    def _after(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        start, extra = self.start, self.current_length()
        if start is None:
            return output
        output["last_hidden_state"] = cut_out(output["last_hidden_state"], start, extra)
        states = output.get("hidden_states")
        if states is not None:
            output["hidden_states"] = tuple(cut_out(state, start, extra) for state in states)
        return output

    def current_length(self) -> int:
        """Return the number of tokens by which a text grows, if the prompt is not inside it."""
        length = self.current().shape[1] if self.encoder is None else self.encoder.length
        return length + (0 if self.anchors is None else len(self.anchors))

    def _before_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        inputs = named(decoder, args, kwargs)
        mask = inputs.get("encoder_attention_mask")
        if mask is not None:
            ones = mask.new_ones(mask.shape[0], self.current_length())
            inputs["encoder_attention_mask"] = splice(mask, ones, self._columns(mask, mask))
        return (), inputs


def splice(values: Tensor, fill: Tensor, start: int | Tensor) -> Tensor:
    """Insert fill [B, P, ...] before column start, or [B, 1], of values [B, T, ...]."""
    fill = fill.to(values.dtype)
    if isinstance(start, int):
        return torch.cat([values[:, :start], fill, values[:, start:]], 1)
    length, extra = values.shape[1], fill.shape[1]
    columns = torch.arange(length + extra, device=values.device)
    behind = columns - start
    order = torch.where(behind < 0, columns, columns - extra)
    order = torch.where((behind >= 0) & (behind < extra), length + behind, order)
    return pick(torch.cat([values, fill], 1), order)


def cut_out(values: Tensor, start: int | Tensor, extra: int) -> Tensor:
    """Cut `extra` columns, from column start or [B, 1] on, out of values [B, T, ...]."""
    if isinstance(start, int):
        rest = values.shape[1] - start - extra
        before, _, behind = values.split([start, extra, rest], 1)  # one gradient, not one a slice
        return torch.cat([before, behind], 1)
    columns = torch.arange(values.shape[1] - extra, device=values.device)
    return pick(values, torch.where(columns < start, columns, columns + extra))


def single(columns: Tensor) -> int | Tensor:
    """Return the one column of all rows [B, 1]: slices have a cheaper gradient than an index.

    The columns themselves if rows differ, and on a GPU, which would have to be waited for. Also for
    fake tensors (a plan that counts operations), which hold no numbers.
    """
    if type(columns) is not Tensor or columns.device.type != "cpu":
        return columns
    first = int(columns[0])
    return first if bool((columns == first).all()) else columns


def pick(values: Tensor, order: Tensor) -> Tensor:
    """Return the columns order [B, S] of values [B, T, ...]."""
    rows = torch.arange(values.shape[0], device=values.device)
    return values[rows.unsqueeze(1), order]  # gather needs an index of the whole shape: slower


def draw_uniform(module: nn.Module, fan_in: int, generator: torch.Generator) -> None:
    """Draw all parameters of a module uniformly within 1 / sqrt(fan in)."""
    for tensor in module.parameters():
        drawn = torch.rand(tensor.shape, generator=generator) * 2 - 1
        tensor.data.copy_(drawn * fan_in**-0.5)


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
        self.length, half = length, width // 2
        self.embedding = nn.Parameter(torch.randn(length, width, generator=generator).to(device))
        self.lstm: nn.LSTM | None = None
        if recurrent:
            self.lstm = nn.LSTM(
                width, half, num_layers=2, bidirectional=True, batch_first=True, device=device
            )
            draw_uniform(self.lstm, half, generator)
        first = nn.Linear(width, width, device=device)
        self.mlp = nn.Sequential(first, nn.ReLU(), nn.Linear(width, width, device=device))
        draw_uniform(self.mlp, width, generator)

    def forward(self) -> Tensor:
        """Return the vectors [1, P, d]."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            inputs = self.embedding[None]
            if self.lstm is not None:
                inputs, _ = self.lstm(inputs)
            return self.mlp(inputs)
