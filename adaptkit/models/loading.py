"""Loading bodies, heads and tokenizers: folders and hub ids, safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from adaptkit.errors import AdaptError
from adaptkit.models.anatomy import base_prefix, family, family_of
from adaptkit.models.body import base_of
from adaptkit.models.checkpoint import read
from adaptkit.models.heads import HEADS, Head, check_head, outputs_by_name
from adaptkit.models.layout import past_padding
from adaptkit.models.padding import with_padding_moved
from adaptkit.models.pairs import separate_pairs
from adaptkit.models.pooling import Pooled, read_end
from adaptkit.models.quantized import adopt, check_device, is_packed, loading_options
from adaptkit.models.weights import check_finite, head_names, new_names, read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adaptkit.models.model import Model

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Loaded:
    """A task's model with the body's weights, and which parameters are new."""

    model: nn.Module
    head: frozenset[str]
    fingerprint: str  # of the body as it lies on disk
    begins: str  # the values of the head: key of BEGINNINGS


def auto_class(head: str) -> Any:
    """Return transformers' Auto class of a head."""
    return getattr(transformers, HEADS[head].auto)


def load_config(
    model: Model, head: str, outputs: int | None, offline: bool = False
) -> PretrainedConfig:
    """Return the Hugging Face config with a head of `outputs` outputs (None: the vocabulary).

    `offline`: from the architecture in the model's YAML, where it holds one.

    Raises:
        AdaptError: no such model, no such architecture, no such head of it, or a broken
            config.json.
    """
    if offline and model.architecture and not Path(model.path).is_dir():
        family_of(model.architecture["model_type"])
        config = AutoConfig.for_model(**model.architecture)
    else:
        config = read(AutoConfig, model)
    family_of(config.model_type)
    check_head(head, config, model.pooling)
    if outputs is not None:
        config.num_labels = outputs
    config.use_cache = False
    # What a checkpoint's own config.json may ask for, and no task reads.
    config.return_dict = True
    config.output_attentions = config.output_hidden_states = False
    config.chunk_size_feed_forward = 0
    if config.pad_token_id is None:  # GPT-2, LLaMA: nothing reads padding, but an id is needed
        eos = config.eos_token_id
        config.pad_token_id = (eos[0] if isinstance(eos, list) else eos) or 0
    _check_sizes(model, config)
    return config


def _check_sizes(model: Model, config: PretrainedConfig) -> None:
    if not 0 <= config.pad_token_id < config.vocab_size:
        raise AdaptError(
            f"model.path={model.path}: config.json gives {config.pad_token_id} as the number of "
            f"the padding token, but there are tokens 0 to {config.vocab_size - 1}. Set "
            "pad_token_id to that of the tokenizer."
        )
    sizes = {
        name: getattr(config, name)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    }
    positions = family_of(config.model_type).positions(config)
    if positions is not None:
        sizes["max_position_embeddings"] = positions  # those that a text can use
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise AdaptError(
                f"model.path={model.path}: config.json gives {name}={size!r}, which must be a "
                "whole number of 1 or more. The file is broken; fetch it again."
            )


def load_tokenizer(model: Model, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer, padding on the right, with a padding token and a separator for pairs.

    Raises:
        AdaptError: the folder or hub id has no tokenizer, or that of another model.
    """
    tokenizer = read(AutoTokenizer, model)
    where, known = f"model.path={model.path}: the tokenizer", len(tokenizer)
    if known < config.vocab_size / 2:  # without its files an empty one is made
        raise AdaptError(
            f"{where} knows {known} tokens, the model {config.vocab_size}. Put the model's own "
            "tokenizer files there (tokenizer.json ...)."
        )
    if known > config.vocab_size:
        raise AdaptError(
            f"{where} knows {known} tokens, but the table of word embeddings has "
            f"{config.vocab_size} rows. Use the model's own tokenizer, or enlarge the table "
            "(resize_token_embeddings) and save the model."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    if tokenizer.eos_token_id is None and family_of(config.model_type).causal:
        _name_ends(tokenizer, config)
    counts = family_of(config.model_type).positions is past_padding
    if counts and tokenizer.pad_token_id != config.pad_token_id:
        raise AdaptError(
            f"{where} pads with token {tokenizer.pad_token_id}, the model with "
            f"{config.pad_token_id}, from which it numbers its positions. Use the model's own "
            "tokenizer."
        )
    config.pad_token_id = tokenizer.pad_token_id
    if getattr(config, "type_vocab_size", 0) == 1:  # one type for all tokens; it is the default
        names = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    tokenizer.padding_side = "right"
    separate_pairs(tokenizer)
    return tokenizer


def _name_ends(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Tell a decoder's tokenizer its first and last token: ModernBERT's knows [CLS] and [SEP]."""
    for name in ("bos_token", "eos_token"):
        number = getattr(config, f"{name}_id")
        if isinstance(number, int) and 0 <= number < len(tokenizer):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))


def load_model(
    model: Model, config: PretrainedConfig, head: str, labels: Sequence[str] = (),
    device: torch.device = CPU,
) -> Loaded:  # fmt: skip
    """Load the body's weights under the task's head; what the file lacks is new and will learn.

    `device`: where quantized weights are packed, and stay; all others are on the CPU.

    `labels`: the task's classes. The output map of a classifier that the file holds is kept if its
    classes have the same names, with its rows in the order of `labels`; otherwise it is drawn. The
    layers before it are kept in any case: ModernBERT's are pretrained. With `model.random_weights`
    all of it is drawn, from torch's own generator.

    Raises:
        AdaptError: no weights, broken weights, or only pickled ones.
    """
    loaded, lacking = read_weights(model, config, head, **packing(model, config, head, device))
    loaded = adopt(loaded) if model.quantization else loaded
    begins = "new" if head_names(loaded) & lacking else "kept"
    if HEADS[head].new and HEADS[head].classes:
        order = outputs_by_name(config.id2label, labels)
        outputs = _output_map(loaded)
        if begins == "new" or order is None:
            if not outputs.keys() & lacking:  # of another task
                begins = "replaced"
                _draw(loaded, outputs)
        elif order != sorted(order):
            begins = "reordered"
            with torch.no_grad():
                for tensor in outputs.values():
                    tensor.copy_(tensor[order].clone())
    check_finite(model, loaded)
    if model.random_weights:
        _draw(loaded, dict(loaded.named_parameters()))
    if head == "token" and (begins in ("new", "replaced") or model.random_weights):
        _temper(loaded, config)
    new = new_names(loaded, lacking, head)
    found = fingerprint(loaded, lacking, model.quantization or "")
    return Loaded(with_hooks(loaded, model, HEADS[head]), new, found, begins)


def packing(
    model: Model, config: PretrainedConfig, head: str, device: torch.device
) -> dict[str, Any]:
    """Return the options by which weights are packed while they are read, if they are to be.

    Raises:
        ConfigError: they cannot be packed here.
    """
    if model.quantization is None:
        return {}
    check_device(model, device)
    with torch.device("meta"):
        empty = auto_class(head).from_config(config)
    return loading_options(model, empty, device)


def _draw(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Draw parameters anew as transformers draws those that a checkpoint lacks, in place."""
    for name, parameter in parameters.items():
        path = name.split(".")[:-1]
        owners = [model.get_submodule(".".join(path[:end])) for end in range(len(path) + 1)]
        for drawn in (parameter, *owners):  # its mark of what is not to be drawn
            vars(drawn)["_is_hf_initialized"] = False
    cast("PreTrainedModel", model).initialize_weights()


@torch.no_grad()
def _temper(model: nn.Module, config: PretrainedConfig) -> None:
    """Draw T5's token classifier with the deviation 1 / sqrt(d) of its other heads, in place.

    That of transformers is 1: the first logits are then so large that the head hardly learns.
    """
    if config.model_type in ("t5", "mt5", "umt5"):
        weight = next(tensor for tensor in _output_map(model).values() if tensor.dim() == 2)
        weight.normal_(std=weight.shape[1] ** -0.5)


def _output_map(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return weight [C, H] and bias [C] of a classifier's last linear map, by name."""
    outside = head_names(model)
    maps = [
        name for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in outside
    ]  # fmt: skip
    return {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] == maps[-1]}


def fingerprint(model: nn.Module, new: set[str], quantization: str = "") -> str:
    """Identify a body: SHA-256 over names, shapes, types and both ends of every loaded tensor.

    Of packed weights only how they are packed: devices round the last bit in their own way.
    """
    prefix = base_prefix(model)
    digest = hashlib.sha256(quantization.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(prefix) and name not in new and not is_packed(model, name):
            flat = tensor.detach().reshape(-1)
            ends = torch.cat([flat[:256], flat[-256:]]).to(torch.float32).contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(ends.cpu().numpy().tobytes())
    return digest.hexdigest()


def with_hooks(loaded: nn.Module, model: Model, head: Head) -> nn.Module:
    """Make padding harmless, and let the head read what `model.pooling` says."""
    if how := model.pooling or ("last" if reads_last(loaded, head) else None):
        Pooled(how).attach(base_of(loaded))
    if head is HEADS["sequence"] and family(loaded).encoder_decoder:
        read_end(loaded)
    return with_padding_moved(loaded, head)


def reads_last(model: nn.Module, head: Head) -> bool:
    """Tell whether a classifier reads the last token of the text, as those of decoders do.

    Their own classes look for the last token whose number is not that of padding, and so pass over
    an end token that serves as padding as well. Here the attention mask says where the text ends.
    """
    kind = family(model)
    return head is HEADS["sequence"] and kind.causal


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    import accelerate
    import datasets

    import adaptkit

    named = (adaptkit, torch, transformers, accelerate, datasets)
    # torch's is of a class of its own: who reads it would need torch.
    packing = [sys.modules[name] for name in ("bitsandbytes",) if name in sys.modules]
    return {module.__name__: str(module.__version__) for module in (*named, *packing)}
