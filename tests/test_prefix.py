"""Prefixes against attention by hand, transformers' caches and PEFT, and their traps."""

import copy
import math
from functools import cache
from inspect import signature
from typing import Any

import pytest
import torch
import transformers
from families import SENTENCES, tiny_config, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from adaptkit.adaptation import Adaptation, Context
from adaptkit.config import compose
from adaptkit.config import settings as config
from adaptkit.errors import AdaptError
from adaptkit.methods.prefix import PrefixTuning
from adaptkit.methods.ptuning_v2 import PTuningV2
from adaptkit.models.attention import attentions
from adaptkit.models.heads import HEADS as MODEL_HEADS
from adaptkit.models.loading import head_names
from adaptkit.models.padding import with_padding_moved
from adaptkit.runs import plan

SEQUENCE = MODEL_HEADS["sequence"]

P, HEADS, SIZE = 5, 4, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def language_model(family: str, **changes: Any) -> nn.Module:
    """A tiny model of the pretraining class, its weights wide enough that attention matters."""
    name = {"gpt2": "GPT2LMHeadModel", "opt": "OPTForCausalLM", "llama": "LlamaForCausalLM",
            "mistral": "MistralForCausalLM", "t5": "T5ForConditionalGeneration",
            "bart": "BartForConditionalGeneration"}[family]  # fmt: skip
    settings = tiny_config(family)
    settings.pad_token_id = settings.pad_token_id or 0
    for key, value in changes.items():
        setattr(settings, key, value)
    torch.manual_seed(0)
    model = getattr(transformers, name)(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.15)
    return model


def adapted(model: nn.Module, method: Any = None, **context: Any) -> Adaptation:
    method = method or PrefixTuning(P, projection=None)
    heads = head_names(model) if "Sequence" in type(model).__name__ else frozenset()
    known = {"tokenizer": None, "stage": "train"} | context
    start = Adaptation.of(model, heads)
    return method.adapt(start, Context(generator=torch.Generator().manual_seed(0),
                                       total_updates=3, **known))  # fmt: skip


def widen(model: nn.Module, scale: float = 1.0) -> nn.Module:
    """Draw prefixes as large as real keys, so that mistakes show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".prefix." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def with_prefix(model: nn.Module) -> nn.Module:
    return widen(adapted(model).model)


def batch_of(family: str, texts: list[str] = SENTENCES, side: str = "right") -> dict[str, Tensor]:
    tokenizer = tiny_tokenizer(family)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = side
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def classifier(family: str) -> nn.Module:
    model = tiny_model(family)
    model.config.pad_token_id = model.config.pad_token_id or 0
    return with_padding_moved(model, SEQUENCE)


# ---- the formula, written out ----


def by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor,
    scale: float,
    bias: Tensor | float = 0.0,
) -> Tensor:
    """Row by row: softmax over [prefix; the text's visible keys], one head at a time."""
    rows, heads, queries, size = query.shape
    groups = key.shape[1]
    out = torch.zeros(rows, queries, heads * size)
    for b in range(rows):
        for h in range(heads):
            g = h * groups // heads
            part = slice(g * size, (g + 1) * size)
            for t in range(queries):
                seen = visible[b, t].nonzero()[:, 0]
                scores = torch.cat([keys[:, part], key[b, g, seen]]) @ query[b, h, t] * scale
                if torch.is_tensor(bias):
                    scores = scores + torch.cat([torch.zeros(len(keys)), bias[0, h, t, seen]])
                mixed = torch.softmax(scores, 0) @ torch.cat([values[:, part], value[b, g, seen]])
                out[b, t, h * size : (h + 1) * size] = mixed
    return out


def split(states: Tensor, size: int = SIZE) -> Tensor:
    return states.unflatten(-1, (-1, size)).transpose(1, 2)


def rotated(states: Tensor, rotary: nn.Module, *layer: str) -> Tensor:
    """Rotate [B, heads, T, s] by the model's own cosines and sines."""
    positions = torch.arange(states.shape[2])[None]
    cos, sin = rotary(states, positions, *layer)
    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], -1)
    return states * cos[:, None] + turned * sin[:, None]


def within(length: int, mask: Tensor, causal: bool, window: int | None = None) -> Tensor:
    """visible[b, t, s]: real, not in the future, not further away than the window."""
    steps = torch.arange(length)
    near = torch.ones(length, length).bool() if not causal else steps[:, None] >= steps[None]
    if window is not None:
        near = near & ((steps[:, None] - steps[None]).abs() <= window)
    return mask.bool()[:, None, :] & near


def output_of(model: nn.Module, attention: nn.Module, **inputs: Tensor) -> tuple[Tensor, ...]:
    """(states in, states out of the last map, cross states) of one attention in a forward pass."""
    caught: dict[str, Any] = {}

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        caught["in"] = args[0] if args else kwargs["hidden_states"]
        caught["cross"] = kwargs.get("key_value_states")
        if len(args) > 1 and caught["cross"] is None and torch.is_tensor(args[1]):
            caught["cross"] = args[1]

    hooks = [
        attention.register_forward_pre_hook(before, with_kwargs=True),
        attention.register_forward_hook(lambda m, a, out: caught.update(out=out[0])),
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return caught["in"], caught["out"], caught["cross"]


TEXTS = ["the film was not bad", "a clever script and a charming cast .", "meh"]


@torch.no_grad()
def test_bert_by_hand() -> None:
    model, batch = with_prefix(classifier("bert")), batch_of("bert", TEXTS)
    one = model.bert.encoder.layer[1].attention.self
    states, found, _ = output_of(model, one, **batch)
    visible = within(states.shape[1], batch["attention_mask"], causal=False)
    expect = by_hand(split(one.query(states)), split(one.key(states)), split(one.value(states)),
                     *one.prefix(), visible, 1 / math.sqrt(SIZE))  # fmt: skip
    torch.testing.assert_close(found, expect, **CLOSE)


@torch.no_grad()
def test_segments_reach_the_body() -> None:
    plain = transformers.BertForQuestionAnswering(tiny_config("bert")).eval()
    model = with_prefix(copy.deepcopy(plain))
    batch = tiny_tokenizer("bert")(*TEXTS[:2], return_tensors="pt")
    assert batch["token_type_ids"].max() == 1  # PEFT loses them
    states, _, _ = output_of(model, model.bert.encoder.layer[0].attention.self, **batch)
    expect = plain.bert.embeddings(batch["input_ids"], batch["token_type_ids"])
    torch.testing.assert_close(states, expect, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("padded", (True, False))
def test_gpt2_by_hand(padded: bool) -> None:
    texts = TEXTS if padded else TEXTS[:1]
    model, batch = with_prefix(language_model("gpt2")), batch_of("gpt2", texts)
    one = model.transformer.h[1].attn
    states, found, _ = output_of(model, one, **batch)
    parts = [split(part) for part in one.c_attn(states).chunk(3, -1)]
    visible = within(states.shape[1], batch["attention_mask"], causal=True)
    expect = one.c_proj(by_hand(*parts, *one.prefix(), visible, 1 / math.sqrt(SIZE)))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expect[real], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("family", ("llama", "mistral"))
def test_grouped_heads_by_hand(family: str) -> None:
    window = {"sliding_window": 4} if family == "mistral" else {}
    model, batch = with_prefix(language_model(family, **window)), batch_of(family, TEXTS[:2])
    one = model.model.layers[1].self_attn
    states, found, _ = output_of(model, one, **batch)
    maps = [split(m(states)) for m in (one.q_proj, one.k_proj, one.v_proj)]
    assert maps[1].shape[1] == 2 and one.prefix.keys.shape == (P, 2 * SIZE)
    query, key = (rotated(m, model.model.rotary_emb) for m in maps[:2])
    reach = 3 if window else None  # a window of 4 holds the token itself
    visible = within(states.shape[1], batch["attention_mask"], True, reach)
    expect = by_hand(query, key, maps[2], *one.prefix(), visible, 1 / math.sqrt(SIZE))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], one.o_proj(expect)[real], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", (0, 1))  # full attention, then a window
def test_modernbert_by_hand(layer: int) -> None:
    model, batch = with_prefix(classifier("modernbert")), batch_of("modernbert", TEXTS)
    one = model.model.layers[layer].attn
    states, found, _ = output_of(model, one, **batch)
    query, key, value = (split(part) for part in one.Wqkv(states).chunk(3, -1))
    kind = model.config.layer_types[layer]
    query, key = (rotated(m, model.model.rotary_emb, kind) for m in (query, key))
    reach = {"full_attention": None, "sliding_attention": 8 // 2}[kind]
    assert (reach is None) == (layer == 0)
    visible = within(states.shape[1], batch["attention_mask"], False, reach)
    expect = one.Wo(by_hand(query, key, value, *one.prefix(), visible, 1 / math.sqrt(SIZE)))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expect[real], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ("encoder", "decoder"))
def test_t5_by_hand_with_its_bias(kind: str) -> None:
    """The prefix has bias 0; the first layer's bias of distances serves all layers."""
    model, batch = with_prefix(language_model("t5")), batch_of("t5", TEXTS)
    blocks = getattr(model, kind).block
    one = blocks[1].layer[0].SelfAttention
    states, found, _ = output_of(model, one, **batch, decoder_input_ids=batch["input_ids"])
    length = states.shape[1]
    bias = blocks[0].layer[0].SelfAttention.compute_bias(length, length)
    mask = batch["attention_mask"] if kind == "encoder" else torch.ones(len(TEXTS), length)
    visible = within(length, mask, kind == "decoder")
    maps = [split(m(states)) for m in (one.q, one.k, one.v)]
    expect = one.o(by_hand(*maps, *one.prefix(), visible, 1.0, bias))
    torch.testing.assert_close(found, expect, **CLOSE)


@torch.no_grad()
def test_bart_cross_attention_by_hand() -> None:
    model, batch = with_prefix(language_model("bart")), batch_of("bart", TEXTS)
    one = model.model.decoder.layers[1].encoder_attn
    decoder_ids = batch["input_ids"][:, :4]
    states, found, source = output_of(model, one, **batch, decoder_input_ids=decoder_ids)
    visible = batch["attention_mask"].bool()[:, None].expand(-1, 4, -1)
    maps = (one.q_proj(states), one.k_proj(source), one.v_proj(source))
    expect = by_hand(*map(split, maps), *one.prefix(), visible, 1 / math.sqrt(SIZE))
    torch.testing.assert_close(found, one.out_proj(expect), **CLOSE)


# ---- transformers' own way, a cache in front, with eager attention; positions shifted there ----


def cache_of(model: nn.Module, rows: int, size: int = SIZE) -> DynamicCache:
    pairs = [model.get_submodule(a.module).prefix() for a in attentions(model)]
    return DynamicCache(
        [tuple(split(t.detach()[None], size).expand(rows, -1, -1, -1) for t in p) for p in pairs]
    )


@torch.no_grad()
@pytest.mark.parametrize("family", ("gpt2", "llama", "opt"))
def test_decoders_equal_eager_attention_with_a_cache(family: str) -> None:
    plain = language_model(family)
    ours = with_prefix(copy.deepcopy(plain))
    plain.set_attn_implementation("eager")
    ids = batch_of(family, TEXTS[:1])["input_ids"]
    mask = torch.ones(1, P + ids.shape[1]).long()
    shift = {"position_ids": torch.arange(ids.shape[1])[None] + P}
    same = {"position_ids": torch.arange(ids.shape[1])[None]}
    for where in (same, shift):
        expect = plain(ids, attention_mask=mask, past_key_values=cache_of(ours, 1), **where).logits
        torch.testing.assert_close(ours(ids, **where).logits, expect, **CLOSE)
    torch.testing.assert_close(ours(ids).logits, ours(ids, **same).logits, **CLOSE)  # no shift


@torch.no_grad()
@pytest.mark.parametrize("family", ("bert", "gpt2"))
def test_peft_gives_the_same_with_positions_shifted(family: str) -> None:
    peft = pytest.importorskip("peft")
    plain = tiny_model("bert") if family == "bert" else language_model("gpt2")
    ours = with_prefix(copy.deepcopy(plain))
    if family == "bert" and "past_key_values" not in signature(plain.bert.forward).parameters:
        pytest.skip("PEFT 0.21 refuses BERT from transformers 5.24 on")
    task = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    theirs = peft.get_peft_model(
        plain, peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=P)
    ).eval()
    pairs = [ours.get_submodule(a.module).prefix() for a in attentions(ours)]
    layers = torch.stack([torch.stack(pair) for pair in pairs])  # [L, 2, P, d]
    theirs.prompt_encoder["default"].embedding.weight.copy_(layers.permute(2, 0, 1, 3).flatten(1))
    batch = batch_of(family, TEXTS)
    batch.pop("token_type_ids", None)
    expect = theirs(**batch).logits
    shifted = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]) + P
    found = ours(**batch, position_ids=shifted).logits
    if family == "gpt2":
        real = batch["attention_mask"].bool()
        found, expect = found[real], expect[real]
    torch.testing.assert_close(found, expect, **CLOSE)


# ---- who sees what ----


@torch.no_grad()
@pytest.mark.parametrize("family", ("bert", "gpt2", "modernbert", "mistral", "t5", "bart"))
def test_padded_ids_change_nothing(family: str) -> None:
    batch = batch_of(family, SENTENCES[:6])
    pad = batch["attention_mask"] == 0
    if family in ("t5", "bart"):
        batch["decoder_input_ids"] = batch["input_ids"][:, :3]
    encoder = family in ("bert", "modernbert")
    model = with_prefix(classifier(family) if encoder else language_model(family))
    expect = model(**batch).logits
    batch["input_ids"] = torch.where(pad, 7, batch["input_ids"])
    found = model(**batch).logits
    if family in ("gpt2", "mistral"):
        found, expect = found[~pad], expect[~pad]
    assert pad.any() and torch.equal(found, expect)


@torch.no_grad()
@pytest.mark.parametrize("masked", (True, False))
@pytest.mark.parametrize("family", ("gpt2", "llama", "mistral", "opt", "t5", "bart"))
def test_the_future_changes_nothing(family: str, masked: bool) -> None:
    model = with_prefix(language_model(family))
    ids = batch_of(family, SENTENCES[1:2])["input_ids"]
    other = ids.clone()
    other[0, 3] = 9
    mask = {"attention_mask": torch.ones_like(ids)} if masked else {}
    if family in ("t5", "bart"):
        one, two = (model(input_ids=ids, decoder_input_ids=i, **mask).logits for i in (ids, other))
    else:
        one, two = (model(input_ids=i, **mask).logits for i in (ids, other))
    torch.testing.assert_close(one[:, :3], two[:, :3], rtol=0, atol=0)
    assert not torch.allclose(one[:, 3:], two[:, 3:])


@torch.no_grad()
@pytest.mark.parametrize("family", ("t5", "bart"))
def test_the_source_changes_what_is_decoded(family: str) -> None:
    model = with_prefix(language_model(family))
    start = torch.tensor([[model.config.decoder_start_token_id, 5]])
    ids = batch_of(family, SENTENCES[1:2])["input_ids"]
    one, two = (model(input_ids=i, decoder_input_ids=start).logits for i in (ids, ids.flip(1)))
    assert (one - two).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("family", ("bert", "gpt2", "t5"))
def test_every_prefix_counts_and_forwards_repeat(family: str) -> None:
    model, batch = with_prefix(classifier(family)), batch_of(family, TEXTS)
    expect = model(**batch).logits
    assert torch.equal(model(**batch).logits, expect)
    for attention in attentions(model):
        prefix = model.get_submodule(attention.module).prefix
        for tensor in (prefix.keys, prefix.values):
            before = tensor.clone()
            tensor.add_(torch.arange(tensor.numel()).view_as(tensor) % 3 - 1.0)
            assert not torch.allclose(model(**batch).logits, expect), attention
            tensor.copy_(before)


@torch.no_grad()
@pytest.mark.parametrize("beams", (1, 3))
@pytest.mark.parametrize("family", ("gpt2", "opt", "llama", "mistral", "t5", "bart"))
def test_generation_with_and_without_cache_and_padding(family: str, beams: int) -> None:
    two_stacks = family in ("t5", "bart")
    window = {"sliding_window": 6} if family == "mistral" else {}
    model = with_prefix(language_model(family, **window))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": beams, "do_sample": False}

    def generate(inputs: dict[str, Tensor], use_cache: bool = True) -> Tensor:
        return model.generate(**inputs, use_cache=use_cache, **options)[:, -6:]

    # Decoders go on at the right end; an encoder's positions start at the left one.
    batch = batch_of(family, TEXTS, side="right" if two_stacks else "left")
    cached = generate(batch)
    assert torch.equal(cached, generate(batch, use_cache=False))
    for row, text in enumerate(TEXTS):
        assert torch.equal(cached[row : row + 1], generate(batch_of(family, [text])))
    if beams == 1 and not two_stacks:  # step by step; the end token is forbidden
        ids = batch_of(family, TEXTS[:1])["input_ids"]
        for step in range(6):
            scores = model(ids).logits[0, -1]
            scores[model.config.eos_token_id] = -torch.inf
            assert scores.argmax() == cached[0, step]
            ids = torch.cat([ids, cached[:1, step : step + 1]], 1)


# ---- the MLP ----

MLP = PrefixTuning(P, projection=16)


@pytest.mark.parametrize("family", ("bert", "gpt2", "t5"))
def test_the_mlp_by_hand(family: str) -> None:
    model = adapted(classifier(family), MLP).model
    with torch.no_grad():
        model(**batch_of(family, TEXTS))
    mlps = {n: m for n, m in model.named_modules() if n.rpartition(".")[2].startswith("prefix_")}
    names = {"t5": {"prefix_encoder", "prefix_decoder", "prefix_cross"}}
    assert {n.rpartition(".")[2] for n in mlps} == names.get(family, {"prefix_self"})
    for name, mlp in mlps.items():
        kind = name.rpartition("prefix_")[2]
        inner = torch.tanh(mlp.embedding @ mlp.down.weight.T + mlp.down.bias)
        both = inner @ mlp.up.weight.T + mlp.up.bias
        places = [a for a in attentions(model) if a.kind == kind]
        expect = both.view(P, len(places), 2, HEADS * SIZE)
        for layer, attention in enumerate(places):
            keys, values = model.get_submodule(attention.module).prefix()
            torch.testing.assert_close(keys, expect[:, layer, 0])
            torch.testing.assert_close(values, expect[:, layer, 1])


@pytest.mark.parametrize("family", ("bert", "llama", "bart"))
def test_finish_drops_the_mlp_and_keeps_the_function(family: str) -> None:
    adaptation, batch = adapted(classifier(family), MLP), batch_of(family, TEXTS)
    model = adaptation.model.eval()
    with torch.no_grad():
        expect = model(**batch).logits
    counted = len(list(model.parameters()))
    for finish in adaptation.finish:
        finish()
    assert len(list(model.parameters())) < counted
    assert not [n for n, _ in model.named_modules() if ".prefix_" in n]
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expect, rtol=0, atol=1e-6)
    saved = adaptation.delta()
    fresh = adapted(classifier(family), MLP, stage="restore")
    assert set(fresh.delta()) == set(saved)
    fresh.load_delta(saved)
    with torch.no_grad():
        assert torch.equal(fresh.model.eval()(**batch).logits, model(**batch).logits)


def gradients(adaptation: Adaptation, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    adaptation.model.zero_grad()
    labels = torch.arange(len(batch["input_ids"])) % 2
    cross_entropy(adaptation.model.train()(**batch).logits, labels).backward()
    return {n: p.grad.clone() for n, p in adaptation.trainable.items()}


@pytest.mark.parametrize("method", (MLP, PrefixTuning(P, None)), ids=("mlp", "flat"))
@pytest.mark.parametrize("family", ("bert", "gpt2", "llama", "t5"))
def test_gradients_under_checkpointing(family: str, method: PrefixTuning) -> None:
    model = classifier(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    model.config.use_cache = False
    adaptation, batch = adapted(model, method), batch_of(family, TEXTS)
    expect = gradients(adaptation, batch)
    model.activation_checkpointing_enable({"use_reentrant": False})
    found = gradients(adaptation, batch)
    assert all(g.any() for g in expect.values())
    for name, gradient in expect.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(AdaptError, match="use_reentrant"):
        gradients(adaptation, batch)


def test_a_copy_has_an_mlp_of_its_own() -> None:
    adaptation, batch = adapted(classifier("bert"), MLP), batch_of("bert", TEXTS)
    adaptation.model.train()(**batch)  # leaves a graph behind
    other = copy.deepcopy(adaptation.model.eval())
    with torch.no_grad():
        expect = adaptation.model(**batch).logits
        assert torch.equal(other(**batch).logits, expect)
        other.get_submodule("bert.prefix_self").embedding.add_(1.0)
        assert not torch.allclose(other(**batch).logits, expect)
        assert torch.equal(adaptation.model(**batch).logits, expect)


def test_dropout_acts_on_the_prefix_in_training_alone() -> None:
    model = classifier("bert")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for projection in (None, 16):
        one = adapted(copy.deepcopy(model), PTuningV2(P, projection, dropout=0.5)).model
        batch = batch_of("bert", TEXTS)
        with torch.no_grad():
            assert torch.equal(one.eval()(**batch).logits, one(**batch).logits)
            assert not torch.equal(one.train()(**batch).logits, one(**batch).logits)


# ---- a text as the start ----


@torch.no_grad()
@pytest.mark.parametrize("projection", (None, 16))
@pytest.mark.parametrize("family", ("gpt2", "bert", "bart"))
def test_real_words_are_keys_and_values_of_the_body(family: str, projection: int | None) -> None:
    """A decoder that has the phrase as its prefix goes on as if it had read the phrase."""
    text, tokenizer = "a great film", tiny_tokenizer(family)
    length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    plain = language_model(family) if family != "bert" else tiny_model("bert")
    method = PrefixTuning(length, projection, init=text)
    model = adapted(copy.deepcopy(plain), method, tokenizer=tokenizer).model
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    if family == "gpt2":
        more = batch_of("gpt2", ["the plot was dull"])["input_ids"]
        expect = plain(torch.cat([ids, more], 1)).logits[:, length:]
        positions = torch.arange(more.shape[1])[None] + length
        torch.testing.assert_close(model(more, position_ids=positions).logits, expect, **CLOSE)
        return
    model(**batch_of(family, TEXTS))  # an MLP gives what it yields
    if family == "bert":
        one, again = model.bert.encoder.layer[0].attention.self, plain.bert
        states = again.embeddings(ids)
        expect = (one.key(states)[0], one.value(states)[0])
    else:
        one, again = model.model.decoder.layers[2].encoder_attn, plain.model.encoder
        states = again(ids).last_hidden_state
        expect = (one.k_proj(states)[0], one.v_proj(states)[0])
    torch.testing.assert_close(one.prefix(), expect, **CLOSE)


def test_a_short_text_is_repeated_and_a_long_one_cut() -> None:
    long = " ".join(SENTENCES)
    for text in ("film", long):
        method = PrefixTuning(P, None, init=text)
        model = adapted(classifier("bert"), method, tokenizer=tiny_tokenizer("bert")).model
        keys, _ = model.bert.encoder.layer[0].attention.self.prefix()
        assert keys.shape == (P, HEADS * SIZE)
        assert torch.equal(keys[0], keys[-1]) == (text == "film")


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(AdaptError, match=r"method\.init=.*no token"):
        adapted(classifier("bert"), PrefixTuning(P, init="\u200b"),
                tokenizer=tiny_tokenizer("bert"))  # fmt: skip
    with pytest.raises(AdaptError, match=r"method\.init"):
        PrefixTuning(init=" ")


def test_two_prefixes_are_refused() -> None:
    adaptation = adapted(classifier("bert"))
    with pytest.raises(AdaptError, match="prefix already"):
        PTuningV2().adapt(adaptation, Context(None, torch.Generator(), 1))


# ---- learning and counting ----


@pytest.mark.parametrize(
    ("family", "method", "lr"),
    [("bert", PrefixTuning(P, 32), 1e-2), ("llama", PTuningV2(P, dropout=0.0), 6e-2)],
)
def test_loss_falls(family: str, method: Any, lr: float) -> None:
    adaptation, batch = adapted(classifier(family), method), batch_of(family, SENTENCES[:8])
    body = list(adaptation.body_trainable().values())
    for parameter in set(adaptation.trainable.values()) - set(body):
        parameter.requires_grad_(False)  # the prefix alone must do it
    optimizer = torch.optim.Adam(body, lr=lr)
    labels, losses = torch.arange(8) % 2, []
    for _ in range(25):
        optimizer.zero_grad()
        loss = cross_entropy(adaptation.model.eval()(**batch).logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@cache
def planned(*overrides: str) -> plan.Plan:
    settings = config.settings(compose.compose(["task=sst2", *overrides]))
    return plan.plan(settings, "fp32", memory=False)


def mlp(length: int, width: int, inner: int, out: int) -> int:
    return length * width + width * inner + inner + inner * out + out


FLAT = [  # published and counted by hand: 2 P w, layers, kinds of attention
    ("bert-base", 20, 368_640), ("roberta-base", 20, 368_640), ("gpt2", 5, 92_160),
    ("t5-small", 20, 368_640), ("bart-base", 20, 552_960),
    ("albert-base", 20, 2 * 20 * 768),
]  # fmt: skip
WITH_MLP = [
    ("bert-base", 20, 512, 9_864_704, 368_640), ("gpt2", 5, 512, 9_853_184, 92_160),
    ("t5-small", 20, 800, 16_025_952, 368_640), ("bart-base", 20, 800, 24_037_728, 552_960),
]  # fmt: skip
BIG = [
    ("bert-large", 20, 512, 25_760_256, 983_040), ("roberta-large", 8, 512, 25_747_968, 393_216),
    ("gpt2-medium", 10, 512, 25_750_016, 491_520), ("t5-base", 20, 800, 46_183_776, 1_105_920),
    ("bart-large", 200, 800, 62_130_528, 14_745_600),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "model", "length", "count"),
    [("prefix", *row) for row in FLAT]
    + [pytest.param("ptuning_v2", *row, marks=pytest.mark.slow) for row in FLAT],
)
def test_count_without_mlp(name: str, model: str, length: int, count: int) -> None:
    options = (f"model={model}", f"method={name}", f"method.length={length}")
    found = planned(*options, "method.projection=null").params
    assert found.body_trainable == count
    assert found.stored == count + found.head_trainable


@pytest.mark.parametrize(
    ("model", "length", "inner", "count", "kept"),
    [*WITH_MLP, *(pytest.param(*row, marks=pytest.mark.slow) for row in BIG)],
)
def test_count_with_mlp_and_what_is_kept(
    model: str, length: int, inner: int, count: int, kept: int
) -> None:
    found = planned(f"model={model}", "method=prefix", f"method.length={length}",
                    f"method.projection={inner}").params  # fmt: skip
    assert found.body_trainable == count
    assert found.stored == kept + found.head_trainable


def test_grouped_heads_have_narrow_prefixes() -> None:
    """LLaMA 3.2 1B: 8 key-value heads of 64, width 2048, 16 layers."""
    found = planned("model=llama-3.2-1b", "method=prefix", "method.length=10").params
    assert found.body_trainable == mlp(10, 2048, 512, 16 * 2 * 512)
    assert found.stored - found.head_trainable == 10 * 2 * 16 * 512
