"""Loading bodies, heads and tokenizers: folders and hub ids, safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from adaptkit.errors import AdaptError, MachineError, first_line
from adaptkit.models.anatomy import base_prefix, family_of
from adaptkit.models.body import base_of
from adaptkit.models.heads import HEADS, Head, check_head
from adaptkit.models.padding import with_padding_moved
from adaptkit.models.pooling import Pooled
from adaptkit.storage import bundled, hub

if TYPE_CHECKING:
    from adaptkit.models.model import Model


@dataclass(frozen=True)
class Loaded:
    """A task's model with the body's weights, and which parameters are new."""

    model: nn.Module
    head: frozenset[str]
    fingerprint: str  # of the body as it lies on disk


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
        config = _load(AutoConfig, model)
    family_of(config.model_type)
    check_head(head, config, model.pooling)
    if outputs is not None:
        config.num_labels = outputs
    config.use_cache = False
    config.return_dict = True  # a checkpoint's own config.json may ask for tuples
    if config.pad_token_id is None:  # GPT-2, LLaMA: nothing reads padding, but an id is needed
        eos = config.eos_token_id
        config.pad_token_id = (eos[0] if isinstance(eos, list) else eos) or 0
    return config


def load_tokenizer(model: Model, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer, padding on the right, with a padding token.

    Raises:
        AdaptError: the folder or hub id has no tokenizer.
    """
    tokenizer = _load(AutoTokenizer, model)
    if len(tokenizer) < config.vocab_size / 2:  # without its files an empty one is made
        raise AdaptError(
            f"model.path={model.path}: the tokenizer knows {len(tokenizer)} tokens, the model "
            f"{config.vocab_size}. Put the model's own tokenizer files there (tokenizer.json ...)."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(model: Model, config: PretrainedConfig, head: str) -> Loaded:
    """Load the body's weights under the task's head; what the file lacks is new and will learn.

    Raises:
        AdaptError: no weights, broken weights, or only pickled ones.
    """
    loaded, info = _load(
        auto_class(head), model, config=config, dtype="auto", output_loading_info=True,
        use_safetensors=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    # A head for other classes than the task's is replaced like a missing one.
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    outside = head_names(loaded)
    if wrong := sorted(mismatched - outside if HEADS[head].new else mismatched):
        raise AdaptError(
            f"model.path={model.path}: the weights do not fit config.json: {wrong[:3]} have other "
            "shapes. The folder is broken; fetch it again."
        )
    missing = {*info["missing_keys"], *mismatched}
    body = [n for n, _ in loaded.named_parameters() if n.startswith(base_prefix(loaded))]
    if len(missing & set(body)) > len(body) / 2:
        raise AdaptError(
            f"model.path={model.path}: the file holds other weights than {type(loaded).__name__} "
            f"has ({len(missing & set(body))} of {len(body)} tensors missing). Check config.json."
        )
    # A part that the checkpoint lacks (a pooler) is new and trains as well.
    named = {n for n, _ in loaded.named_parameters()}
    new = (outside if HEADS[head].new else frozenset()) | (missing & named)
    return Loaded(with_hooks(loaded, model, HEADS[head]), new, fingerprint(loaded, missing))


def empty_model(model: Model, config: PretrainedConfig, head: str) -> Loaded:
    """Build the model from its config alone, under the caller's fake tensors.

    Where the weights lie in a folder, a part of the body that they lack (BERT's pooler, after
    masked-language-model pretraining) counts as new.
    """
    with no_init_weights():
        empty = auto_class(head).from_config(config)
    outside = head_names(empty)
    stored = {part for name in _names_in(model) for part in name.split(".")}
    # A part of the base model, or of a pretrained head, that the files do not know.
    lacking = {
        name for name, _ in empty.named_parameters()
        if stored and name.removeprefix(base_prefix(empty)).split(".")[0] not in stored
    }  # fmt: skip
    new = outside | lacking if HEADS[head].new else lacking
    return Loaded(with_hooks(empty, model, HEADS[head]), frozenset(new), "")


def _names_in(model: Model) -> list[str]:
    """Return the names of the tensors in a local folder's files; none for a hub id."""
    folder = bundled.model(model.path) or Path(model.path).expanduser()
    names: list[str] = []
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safetensors.safe_open(file, "pt") as tensors:
                names += tensors.keys()
        except safetensors.SafetensorError:  # training will say so; a plan reads no weights
            return []
    return names


def head_names(model: nn.Module) -> frozenset[str]:
    """Return the parameters outside the base model: new with the task, if the head says so."""
    prefix = base_prefix(model)
    return frozenset(n for n, _ in model.named_parameters() if not n.startswith(prefix))


def fingerprint(model: nn.Module, new: set[str]) -> str:
    """Identify a body: SHA-256 over names, shapes, types and both ends of every loaded tensor."""
    prefix = base_prefix(model)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(prefix) and name not in new:
            flat = tensor.detach().reshape(-1)
            ends = torch.cat([flat[:256], flat[-256:]]).to(torch.float32).contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(ends.cpu().numpy().tobytes())
    return digest.hexdigest()


def with_hooks(loaded: nn.Module, model: Model, head: Head) -> nn.Module:
    """Make padding harmless, and let the head read what `model.pooling` says."""
    if model.pooling:
        Pooled(model.pooling).attach(base_of(loaded))
    return with_padding_moved(loaded, head)


def _load(cls: Any, model: Model, **options: Any) -> Any:
    """Call `cls.from_pretrained`, and say in one sentence what is wrong where it fails."""
    where = f"model.path={model.path}"
    local = bundled.model(model.path) or Path(model.path).expanduser()
    if local.is_dir():
        _check_folder(local, weights="AutoModel" in cls.__name__)
    hub.check_model(model.path, model.revision)
    source = str(local) if local.is_dir() else model.path
    try:
        return cls.from_pretrained(
            source, revision=model.revision or "main", trust_remote_code=False, **options
        )
    except MemoryError as error:
        raise MachineError(f"{where}: not enough memory to load the weights.") from error
    except Exception as error:
        raise AdaptError(
            f"{where}: cannot be loaded: {first_line(error)}. {_hint(error)}"
        ) from error


def _hint(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    if "afetensor" in text and ("ncomplete" in text or "eader" in text):
        return "The weight file is cut short or damaged; fetch it again."
    if "trust_remote_code" in text:
        return "It needs code from its repository, which adaptkit does not run."
    if "offline" in text.lower() or "connect" in text.lower() or "LocalEntryNotFound" in text:
        return hub.ALTERNATIVES
    if "sentencepiece" in text or "tiktoken" in text or "protobuf" in text:
        return "pip install 'adaptkit[slow-tokenizers]'."
    return "Check the path, and that it holds config.json, tokenizer files and *.safetensors."


def _check_folder(folder: Path, weights: bool) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise AdaptError(f"model.path={folder}: holds no config.json. Give a model's folder.")
    try:
        kind = json.loads(config.read_text()).get("model_type", "")
    except (ValueError, AttributeError) as error:
        raise AdaptError(f"model.path={folder}: config.json is broken: {error}.") from error
    try:
        family_of(kind)
    except AdaptError as error:
        raise AdaptError(f"model.path={folder}: {error}") from error
    if weights and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise AdaptError(
            f"model.path={folder}: holds no *.safetensors"
            + (
                "; pickled weights (*.bin) are never loaded. Convert them with save_pretrained."
                if pickled
                else ", so there are no weights to adapt. Fetch them, or check the path."
            )
        )


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    import accelerate
    import datasets

    import adaptkit

    named = (adaptkit, torch, transformers, accelerate, datasets)
    return {module.__name__: module.__version__ for module in named}
