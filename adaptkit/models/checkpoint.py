"""A checkpoint's files: read through transformers, and checked before. No torch at import time.

All that lies in a folder is data: nothing outside it is opened, no code of it runs, and what is
wrong with it is said in one sentence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptkit.errors import AdaptError, MachineError, first_line
from adaptkit.models.anatomy import family_of
from adaptkit.storage import bundled, hub

if TYPE_CHECKING:
    from adaptkit.models.model import Model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
MOST_CLASSES = 1_000_000  # transformers names every class of config.json's num_labels
HINT = "Check the path, and that it holds config.json, tokenizer files and *.safetensors."


def folder_of(path: str) -> Path | None:
    """Return the folder of a path or `adaptkit:NAME`, or None for a hub id."""
    folder = bundled.model(path) or Path(path).expanduser()
    return folder if folder.is_dir() else None


def read(cls: Any, model: Model, **options: Any) -> Any:
    """Call `cls.from_pretrained`, and say in one sentence what is wrong where it fails.

    Raises:
        AdaptError: the folder or hub id cannot be loaded.
        MachineError: there is not enough memory.
    """
    where = f"model.path={model.path}"
    folder = folder_of(model.path)
    if folder:
        check_folder(folder, weights="AutoModel" in cls.__name__)
    hub.check_model(model.path, model.revision)
    try:
        return cls.from_pretrained(
            str(folder or model.path), revision=model.revision or "main",
            trust_remote_code=False, **options,
        )  # fmt: skip
    except MemoryError as error:
        raise MachineError(f"{where}: not enough memory to load the weights.") from error
    except Exception as error:
        what = "the tokenizer cannot be loaded" if "Token" in cls.__name__ else "cannot be loaded"
        raise AdaptError(f"{where}: {what}: {reason(error)}. {_hint(error)}") from error


def head_of(model: Model, wanted: str) -> str:
    """Return the key of HEADS that a form needs on a model.

    "text" is whichever head generates, "words" whichever fills a slot.

    Raises:
        AdaptError: the model cannot be loaded, or its family does not generate texts, or does not
            fill in words where they are.
    """
    if wanted not in ("text", "lm", "words", "mlm"):
        return wanted
    family = family_of(model_type(model))
    if wanted == "mlm":
        if family.causal or family.encoder_decoder:
            raise AdaptError(
                f"model.path={model.path}: {family.name} models have no masked-word head, which "
                "this task needs. Choose a model such as BERT, RoBERTa or ModernBERT."
            )
        return wanted
    if family.encoder_decoder and wanted != "lm":
        return "seq2seq"
    if wanted == "words" and not family.causal:
        return "mlm"
    if not family.causal:
        kinds = "causal model (GPT-2, OPT, LLaMA ...)"
        kinds = f"{kinds} or an encoder-decoder (T5, BART)" if wanted == "text" else kinds
        what = "generate texts" if wanted == "text" else "predict the next word of a text"
        raise AdaptError(
            f"model.path={model.path}: {family.name} models cannot {what}, which this task needs. "
            f"Choose a {kinds}."
        )
    return "lm"


def model_type(model: Model) -> str:
    """Return the name of a model's architecture, from as little as possible.

    Raises:
        AdaptError: the model cannot be loaded.
    """
    folder = folder_of(model.path)
    if folder:
        check_folder(folder, weights=False)
        return str(_json(folder / "config.json", f"model.path={folder}")["model_type"])
    if model.architecture:
        return str(model.architecture["model_type"])
    from transformers import AutoConfig

    return str(read(AutoConfig, model).model_type)


def reason(error: Exception) -> str:
    """Return an exception's first line, and the next one if it announces it."""
    if isinstance(error, KeyError):
        return f"{error} is not known"
    lines = [line.strip() for line in str(error).strip().splitlines()]
    announced = len(lines) > 1 and lines[0].endswith(":")
    return " ".join(lines[:2]).rstrip(".") if announced else first_line(error)


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
    return HINT


def check_folder(folder: Path, weights: bool) -> None:
    """Check a local folder's config.json, and its files of weights if they are about to be read.

    Raises:
        AdaptError: a file is missing or broken, or points out of the folder.
    """
    where = f"model.path={folder}"
    if not (folder / "config.json").is_file():
        raise AdaptError(f"{where}: holds no config.json. Give a model's folder.")
    config = _json(folder / "config.json", where)
    try:
        family_of(str(config.get("model_type", "")))
    except AdaptError as error:
        raise AdaptError(f"{where}: {error}") from error
    classes = config.get("num_labels")
    if isinstance(classes, int) and classes > MOST_CLASSES:
        raise AdaptError(
            f"{where}: config.json is broken: num_labels={classes}: must be {MOST_CLASSES} or less."
        )
    if weights:
        _check_weights(folder, where)


def _json(file: Path, where: str) -> dict[str, Any]:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # nested too deeply
        raise AdaptError(f"{where}: {file.name} is broken: {first_line(error)}.") from error
    if not isinstance(plain, dict):
        raise AdaptError(f"{where}: {file.name} is broken: it is not a JSON object.")
    return plain


def _check_weights(folder: Path, where: str) -> None:
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise AdaptError(
            f"{where}: holds no *.safetensors"
            + (
                "; pickled weights (*.bin) are never loaded. Convert them with save_pretrained."
                if pickled
                else ", so there are no weights to adapt. Fetch them, or check the path."
            )
        )
    if (folder / "adapter_config.json").exists():
        raise AdaptError(
            f"{where}: holds a PEFT adapter beside the base model, which would be put into it. "
            "Move adapter_config.json to another folder; `adaptkit import` reads adapters."
        )
    files_of(folder)


def files_of(folder: Path) -> list[Path]:
    """Return the files of weights that transformers would read.

    Raises:
        AdaptError: the index is broken, or names a file that does not lie in the folder.
    """
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [folder / SINGLE]
    where = f"model.path={folder}"
    table = _json(folder / INDEX, where).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise AdaptError(f"{where}: {INDEX} is broken: weight_map does not name a file per tensor.")
    for name in sorted(set(table.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise AdaptError(
                f"{where}: {INDEX} names the file {name!r}, which does not lie in this folder. "
                "Nothing outside it is read; fetch the model again."
            )
    return [folder / name for name in sorted(set(table.values()))]


def tensors_in(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return the names of all stored tensors, with their file and number format ("F32")."""
    import safetensors

    found = {}
    for file in files_of(folder):
        with safetensors.safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                found[name] = (file, tensors.get_slice(name).get_dtype())
    return found
