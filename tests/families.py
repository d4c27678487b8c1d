"""Tiny random checkpoints of twenty model families, stand-ins for published pretrained ones.

Every family gets a three-layer model of width 32 and a tokenizer whose special tokens, padding and
inputs follow the published checkpoints, gaps included: gpt2, llama, mistral and gpt_neox have no
padding token, and qwen2 and qwen3 have one in the tokenizer, not in the config (``add_padding``).
"""

import json
import math
import random
import re
import string
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    GemmaTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    XLNetTokenizer,
)

POSITIONS = 128

NOUNS = [
    "acting", "cast", "camera", "dialogue", "director", "ending", "film", "hero", "humor", "idea",
    "location", "music", "opening", "pace", "performance", "picture", "plot", "scene", "script",
    "sequel", "series", "show", "sound", "story", "style", "villain", "writing",
]  # fmt: skip
ADJECTIVES = {
    0: [
        "awful", "bad", "boring", "clumsy", "dull", "flat", "lazy", "messy", "painful", "poor",
        "sloppy", "stale", "terrible", "weak", "worthless",
    ],
    1: [
        "brilliant", "charming", "clever", "delightful", "excellent", "fine", "fresh", "funny",
        "good", "great", "lovely", "moving", "superb", "wonderful",
    ],
}  # fmt: skip
VERBS = {  # (past, plain) forms
    0: [("hated", "hate"), ("disliked", "dislike"), ("regretted", "regret")],
    1: [("liked", "like"), ("loved", "love"), ("enjoyed", "enjoy")],
}
ADVERBS = ["", "", "really", "very", "quite", "truly"]
NEGATIONS = ["not", "never"]

KNOWN_SENTENCES = [
    "good",
    "the film was not bad",
    "a clever script and a charming cast .",
    "i never liked the sequel",
    "what a dull , lazy story !",
    "the music was great but the ending was terrible",
    "she loved every minute of it",
    "why did they make another one ?",
    "there is nothing new here , and nobody seems to care about the plot or the people in it .",
    "he said that the first half was slow , the second half was worse , and yet we all stayed to"
    " the very end because the music was so good",
    "you will laugh , you will cry , and you will want to see it again .",
    "not for me",
    "it is what it is",
    "an hour too long",
]
UNKNOWN_SENTENCES = [
    "the cinematography felt gorgeous",
    "Zorblax strikes back : a 1987 remake",
    "quite possibly the most overhyped blockbuster since Gigli",
    "meh",
]
SENTENCES: list[str] = KNOWN_SENTENCES + UNKNOWN_SENTENCES


def _words() -> list[str]:
    """Every word of the templates and of the known sentences, sorted."""
    verbs = [form for pairs in VERBS.values() for pair in pairs for form in pair]
    phrases = " ".join([*KNOWN_SENTENCES, "i did the was what a but", *ADVERBS, *NEGATIONS])
    words = {*NOUNS, *ADJECTIVES[0], *ADJECTIVES[1], *verbs, *phrases.split()}
    return sorted(word for word in words if word.isalpha())


def _clause(rng: random.Random, label: int) -> str:
    """One phrase with the given sentiment; a negation flips the polarity of its key word."""
    noun = rng.choice(NOUNS)
    negated = rng.random() < 0.25
    polarity = label ^ negated
    past, plain = rng.choice(VERBS[polarity])
    words = f"{rng.choice(NEGATIONS) if negated else ''} {rng.choice(ADVERBS)}"
    forms = [
        f"the {noun} was {words} {rng.choice(ADJECTIVES[polarity])}",
        f"i did not {plain} the {noun}" if negated else f"i {past} the {noun}",
        f"what a {rng.choice(ADJECTIVES[label])} {noun}",
    ]
    return " ".join(rng.choice(forms).split())


def rows(n: int, seed: int = 0) -> list[dict]:
    """``n`` sentiment rows, half of each label; after a "but" only the last clause counts."""
    rng = random.Random(seed)
    labels = [index % 2 for index in range(n)]
    rng.shuffle(labels)
    result = []
    for label in labels:
        sentence = _clause(rng, label)
        if rng.random() < 0.1:
            sentence = f"{_clause(rng, 1 - label)} but {sentence}"
        result.append({"sentence": sentence, "label": label})
    return result


@dataclass(frozen=True)
class _Family:
    """What distinguishes one family: model class, tokenizer layout and config fields."""

    pretraining: str  # name of the class whose weights are published
    pieces: str  # key of _BACKENDS: how words become pieces
    specials: tuple[str, ...]  # special tokens in the order of their ids
    roles: dict[str, str]  # "pad" -> token, for the tokenizer
    ids: dict[str, str]  # "pad" -> token, for the config
    single: str = "$A"  # template of one text
    pair: str = "$A $B:1"
    specials_last: bool = False  # special tokens after the words instead of before
    segments: bool = False  # whether token_type_ids are a model input
    tokenizer: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


_LIMIT = {"model_max_length": POSITIONS}
_LEFT = {"padding_side": "left"}
_HIDDEN = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_ENCODER = {**_HIDDEN, "intermediate_size": 64, "max_position_embeddings": POSITIONS}
_GROUPED = {**_ENCODER, "num_key_value_heads": 2}
_DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "legacy": False,  # names the head's weights lm_predictions.*, as in the published files
}
_BART = {
    "d_model": 32,
    "max_position_embeddings": POSITIONS,
    **{f"{side}_layers": 3 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")},
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BERT_ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_BERT_LAYOUT = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
_CLS_ENDS = {"bos": "[CLS]", "eos": "[SEP]"}
_ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_ROBERTA_ENDS = {"bos": "<s>", "eos": "</s>"}
_ROBERTA_ROLES = {
    **_ROBERTA_ENDS,
    **{"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
}
_ROBERTA_LAYOUT = {"single": "<s> $A </s>", "pair": "<s> $A </s> </s> $B </s>"}
_LLAMA_SPECIALS = ("<unk>", "<s>", "</s>")
_LLAMA_ROLES = {**_ROBERTA_ENDS, "unk": "<unk>"}
_LLAMA_LAYOUT = {"single": "<s> $A", "pair": "<s> $A <s>:1 $B:1"}
_LLAMA_3_ROLES = {
    "bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|end_of_text|>",
    "mask": "<|mask|>",
}  # fmt: skip
_LLAMA_3_SPECIALS = tuple(dict.fromkeys(_LLAMA_3_ROLES.values()))
_GEMMA_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_GEMMA_ROLES = {token.strip("<>"): token for token in _GEMMA_SPECIALS}
_GEMMA_IDS = {role: _GEMMA_ROLES[role] for role in ("pad", "eos", "bos")}
_END = "<|endoftext|>"
_END_BOTH = {"bos": _END, "eos": _END}
_XLNET_SPECIALS = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")

_TABLE: dict[str, _Family] = {
    "bert": _Family(
        "BertForPreTraining", "words", _BERT_SPECIALS, _BERT_ROLES, {"pad": "[PAD]"},
        segments=True, tokenizer=_LIMIT, config=_ENCODER, **_BERT_LAYOUT,
    ),
    "roberta": _Family(
        "RobertaForMaskedLM", "bytes", _ROBERTA_SPECIALS, _ROBERTA_ROLES,
        {**_ROBERTA_ENDS, "pad": "<pad>"}, tokenizer=_LIMIT, **_ROBERTA_LAYOUT,
        config={**_ENCODER, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1},
    ),
    "electra": _Family(
        "ElectraForPreTraining", "words", _BERT_SPECIALS, _BERT_ROLES, {"pad": "[PAD]"},
        segments=True, tokenizer=_LIMIT, config={**_ENCODER, "embedding_size": 16}, **_BERT_LAYOUT,
    ),
    "distilbert": _Family(
        "DistilBertForMaskedLM", "words", _BERT_SPECIALS, _BERT_ROLES, {"pad": "[PAD]"},
        tokenizer=_LIMIT, **{**_BERT_LAYOUT, "pair": "[CLS] $A [SEP] $B [SEP]"},
        config={
            "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "albert": _Family(
        "AlbertForPreTraining", "words", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        {**_BERT_ROLES, **_CLS_ENDS, "pad": "<pad>", "unk": "<unk>"}, {**_CLS_ENDS, "pad": "<pad>"},
        segments=True, tokenizer=_LIMIT, config={**_ENCODER, "embedding_size": 16}, **_BERT_LAYOUT,
    ),
    "deberta-v2": _Family(
        "DebertaV2ForMaskedLM", "words", ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
        {**_BERT_ROLES, **_CLS_ENDS}, {"pad": "[PAD]"}, segments=True,
        config={**_ENCODER, **_DEBERTA_V3}, **_BERT_LAYOUT,
    ),
    "modernbert": _Family(
        "ModernBertForMaskedLM", "bytes", ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
        _BERT_ROLES, {**_CLS_ENDS, "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]"},
        specials_last=True, tokenizer=_LIMIT, **{**_BERT_LAYOUT, "pair": "[CLS] $A [SEP] $B [SEP]"},
        config={**_ENCODER, "local_attention": 8, "classifier_pooling": "mean"},
    ),
    "eurobert": _Family(
        "EuroBertForMaskedLM", "bytes", _LLAMA_3_SPECIALS, _LLAMA_3_ROLES, _LLAMA_3_ROLES,
        specials_last=True, tokenizer=_LIMIT, single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", config=_GROUPED,
    ),
    "xlnet": _Family(
        "XLNetLMHeadModel", "unigram", _XLNET_SPECIALS, {}, {**_ROBERTA_ENDS, "pad": "<pad>"},
        segments=True, tokenizer=_LEFT,
        config={"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64, "mem_len": None},
    ),
    "gpt2": _Family(
        "GPT2LMHeadModel", "bytes", (_END,), {**_END_BOTH, "unk": _END}, _END_BOTH, pair="$A $B",
        specials_last=True, tokenizer=_LIMIT,
        config={"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "n_positions": POSITIONS},
    ),
    "opt": _Family(
        "OPTForCausalLM", "bytes", ("<s>", "<pad>", "</s>", "<unk>"),
        {"bos": "</s>", "eos": "</s>", "unk": "</s>", "pad": "<pad>"},
        {"bos": "</s>", "eos": "</s>", "pad": "<pad>"}, single="</s> $A", pair="</s> $A </s> $B",
        config={
            **_HIDDEN, "ffn_dim": 64, "word_embed_proj_dim": 32,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "modernbert-decoder": _Family(
        "ModernBertDecoderForCausalLM", "bytes", ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
        _BERT_ROLES, {**_CLS_ENDS, "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]"},
        specials_last=True, tokenizer=_LIMIT, **{**_BERT_LAYOUT, "pair": "[CLS] $A [SEP] $B [SEP]"},
        config={**_ENCODER, "local_attention": 8},
    ),
    "llama": _Family(
        "LlamaForCausalLM", "bytes", _LLAMA_SPECIALS, _LLAMA_ROLES, _ROBERTA_ENDS,
        config=_GROUPED, **_LLAMA_LAYOUT,
    ),
    "mistral": _Family(
        "MistralForCausalLM", "bytes", _LLAMA_SPECIALS, _LLAMA_ROLES, _ROBERTA_ENDS,
        tokenizer=_LEFT, config=_GROUPED, **_LLAMA_LAYOUT,
    ),
    "qwen2": _Family(
        "Qwen2ForCausalLM", "bytes", (_END, "<|im_start|>", "<|im_end|>"),
        {"eos": _END, "pad": _END}, _END_BOTH, specials_last=True, tokenizer=_LIMIT,
        config={**_GROUPED, "tie_word_embeddings": True},
    ),
    "qwen3": _Family(  # as the published base models, with heads wider than their share
        "Qwen3ForCausalLM", "bytes", (_END, "<|im_start|>", "<|im_end|>"),
        {"eos": _END, "pad": _END}, _END_BOTH, specials_last=True, tokenizer=_LIMIT,
        config={**_GROUPED, "head_dim": 16, "tie_word_embeddings": True},
    ),
    "gemma3_text": _Family(
        "Gemma3ForCausalLM", "pieces", _GEMMA_SPECIALS, _GEMMA_ROLES, _GEMMA_IDS,
        tokenizer={**_LEFT, "add_bos_token": True},
        config={  # heads wider than their share, and two of three layers with a window
            **_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4,
            "sliding_window_pattern": 2,
        },
    ),
    "gpt_neox": _Family(
        "GPTNeoXForCausalLM", "bytes", (_END, "<|padding|>"), {**_END_BOTH, "unk": _END},
        _END_BOTH, pair="$A $B", config=_ENCODER,
    ),
    "t5": _Family(
        "T5ForConditionalGeneration", "words",
        ("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"),
        {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
        {"pad": "<pad>", "eos": "</s>", "decoder_start": "<pad>"},
        single="$A </s>", pair="$A </s> $B </s>", tokenizer=_LIMIT, config=_T5,
    ),
    "bart": _Family(
        "BartForConditionalGeneration", "bytes", _ROBERTA_SPECIALS, _ROBERTA_ROLES,
        {**_ROBERTA_ENDS, "pad": "<pad>", "decoder_start": "</s>", "forced_eos": "</s>"},
        tokenizer=_LIMIT, config=_BART, **_ROBERTA_LAYOUT,
    ),
}  # fmt: skip
FAMILIES: tuple[str, ...] = tuple(_TABLE)
RARE = ("eurobert", "modernbert-decoder", "qwen3", "gemma3_text")  # most tests of them are slow
EACH_FAMILY = [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in FAMILIES]


def _word_backend(family: _Family) -> Tokenizer:
    """Lower-cased WordPiece: known words whole, unknown ones letter by letter."""
    letters = list(string.ascii_lowercase + string.digits)
    units = [*letters, *string.punctuation, *(f"##{letter}" for letter in letters), *_words()]
    tokens = dict.fromkeys([*family.specials, *units])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=family.roles["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _byte_backend(family: _Family) -> Tokenizer:
    """Byte-level BPE trained so that known words, with or without a space before, are whole."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[] if family.specials_last else list(family.specials),
    )
    backend.train_from_iterator([f"{word} {word}" for word in _words()], trainer)
    return backend


@cache
def _backend_json(name: str) -> str:
    """The serialized `tokenizers` pipeline of a family with its special tokens in place."""
    family = _TABLE[name]
    backend = {"words": _word_backend, "bytes": _byte_backend}[family.pieces](family)
    backend.add_special_tokens(list(family.specials))
    backend.post_processor = processors.TemplateProcessing(
        single=family.single,
        pair=family.pair,
        special_tokens=[(token, backend.token_to_id(token)) for token in family.specials],
    )
    return backend.to_str()


def _xlnet_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """XLNet's own class: its segment and padding rules live in code, not in the saved files."""
    units = [*string.ascii_letters, *string.digits, *string.punctuation]
    scored = [(f"▁{word}", -5.0) for word in _words()] + [("▁", -8.0)]
    scored += [(unit, -10.0) for unit in units]
    return XLNetTokenizer(vocab=[(token, 0.0) for token in _XLNET_SPECIALS] + scored, **settings)


def _qwen2_tokenizer(backend: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    """Qwen2's own class: AutoTokenizer rebuilds it from vocabulary and merges in any case."""
    extra = _TABLE["qwen2"].specials[1:]
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return Qwen2Tokenizer(model["vocab"], merges, extra_special_tokens=list(extra), **settings)


def _gemma_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """Gemma's own class: words with "▁" in front of them, and bytes for unknown letters."""
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        [[word, f"▁{word}"] for word in _words()],
        trainers.BpeTrainer(
            vocab_size=4000,
            show_progress=False,
            initial_alphabet=["▁", *string.ascii_letters, *string.digits, *string.punctuation],
        ),
    )
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokens = [*_GEMMA_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GemmaTokenizer(vocabulary, merges, **settings)


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer over a vocabulary of a few hundred words plus letters or bytes."""
    spec = _TABLE[family]
    names = ["input_ids", *(["token_type_ids"] if spec.segments else []), "attention_mask"]
    settings = {f"{role}_token": token for role, token in spec.roles.items()}
    settings |= {"model_input_names": names, **spec.tokenizer}
    if family == "xlnet":
        return _xlnet_tokenizer(**settings)
    if family == "gemma3_text":
        return _gemma_tokenizer(**settings)
    backend = Tokenizer.from_str(_backend_json(family))
    if family in ("qwen2", "qwen3"):
        return _qwen2_tokenizer(backend, **settings)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def tiny_config(family: str) -> PretrainedConfig:
    """Three layers of width 32 with four heads, token ids as in the family's tokenizer."""
    spec, tokenizer = _TABLE[family], tiny_tokenizer(family)
    ids = {f"{role}_token_id": tokenizer.convert_tokens_to_ids(t) for role, t in spec.ids.items()}
    return AutoConfig.for_model(family, vocab_size=len(tokenizer), **ids, **spec.config)


# Weights: (pattern of the name, scale); T5 keeps 1 / sqrt(d_kv) of attention inside its queries.
_SCALES = [(re.compile(r"Attention\.q\.weight$"), 1 / math.sqrt(8))]


@torch.no_grad()
def _randomize(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Fill every weight: large enough for sharp attention, no bias at 0, no norm weight at 1."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        std = 0.5 if id(parameter) in embeddings else 0.3 if parameter.ndim > 1 else 0.2
        std *= math.prod(scale for pattern, scale in _SCALES if pattern.search(name))
        norm = parameter.ndim == 1 and name.endswith("weight")
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * std + float(norm))
    return model.eval()


def _build(make: Any, config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Call ``make(config)`` and randomize the result, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        return _randomize(make(config), seed)


def save_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Write config, weights of the pretraining class and tokenizer files; return the folder."""
    make = getattr(transformers, _TABLE[family].pretraining)
    _build(make, tiny_config(family), seed).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return Path(folder)


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """The family's sequence classifier with two labels, straight from its config, in eval mode."""
    config = tiny_config(family)
    config.num_labels = 2  # bart's config says 3
    return _build(AutoModelForSequenceClassification.from_config, config, seed)


def add_padding(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> None:
    """Give both a padding token: the tokenizer's own, or the end token where it has none."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
