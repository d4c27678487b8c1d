"""Features of a frozen base model in a folder, for every run that reads the same texts with it.

    FOLDER/<key>/layer-00.bin   [lines, H]: one line per text, or per token of all texts
    FOLDER/<key>/index.json     what the key stands for, the shapes and the number format

For probes all layers are computed in one pass, in bf16: probes of every layer, with or without a
control task, share them. A run that reads them here differs from one that keeps them in memory by
that rounding alone; rebuilt from its delta, it rounds as well. A model that goes on from the states
of its frozen layers finds those of one layer here, as they were computed: nothing is rounded.

The files are read memory-mapped. The key is a digest of all that the states follow from: the
weights and config of the frozen part as it is (tuned, drawn anew or merged), its number format and
device, how tokens are summed up, the encoded texts, and the versions of the libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from adaptkit.errors import AdaptError, MachineError
from adaptkit.layers.features import Features
from adaptkit.models.body import config_of
from adaptkit.storage.files import is_main_process, making_folder, sync, to_json
from adaptkit.training.batching import CachedFeed, Feed
from adaptkit.training.scorer import Prepared, Scorer, Show, features_of, gathered

INDEX = "index.json"
FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
OF_TASKS = ("id2label", "label2id", "problem_type", "architectures")  # entries of a config
SPARE = 1 << 28  # bytes to leave free on the disk


class Stored(Sequence[Tensor]):
    """The states of chosen layers, read from a folder when asked for."""

    def __init__(self, folder: Path, features: Features) -> None:
        self.as_they_are = features.goes_on
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            self.width, self.flat, self.lines = index["width"], index["flat"], index["lines"]
            kind = FORMATS[index.get("format", "bfloat16")]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(folder / INDEX) from error
        total = sum(self.lines)
        self.starts = list(accumulate(self.lines, initial=0))
        self.maps = []
        for layer in features.chosen:
            file = folder / name_of(layer)
            if not file.is_file() or file.stat().st_size != total * self.width * kind.itemsize:
                raise damaged(file)
            size = total * self.width
            one = torch.from_file(str(file), size=size, dtype=kind)
            self.maps.append(one.view(total, self.width))

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> Tensor:  # type: ignore[override]
        """Return the states of a text [N H], or of its tokens [T, N H]; for a probe in fp32."""
        lines = slice(self.starts[number], self.starts[number] + self.lines[number])
        states = torch.cat([one[lines] for one in self.maps], -1)
        states = states if self.as_they_are else states.float()
        return states[0] if self.flat else states


def stored(scorer: Scorer, feed: Feed, root: Path, show: Show) -> tuple[CachedFeed, bool]:
    """Return the features of every example, read from a folder, and whether they are new there.

    New ones have just been computed. Runs that share the folder wait for each other.

    Raises:
        AdaptError: the folder holds a damaged file, or is a file.
        MachineError: the disk is full or cannot be written; nothing half-written is left.
    """
    features = features_of(scorer.prepared.adaptation)
    stands_for = provenance(scorer.prepared, feed)
    folder = root / hashlib.sha256(to_json(stands_for).encode()).hexdigest()[:32]
    main = is_main_process()
    absent = main and not (folder / INDEX).is_file()  # whole once it is there: needs no lock
    with held(root) if absent else contextlib.nullcontext():
        new = gathered(absent and not (folder / INDEX).is_file())[0]
        if new and main:
            with making_folder(folder) as made:
                write(made, scorer, feed, stands_for, show)
        elif new:  # takes its part in computing
            for _ in scorer.features(feed, features.kept, show):
                pass
        gathered(None)  # all is written
    return CachedFeed(feed, Stored(folder, features), features.goes_on), new


def write(folder: Path, scorer: Scorer, feed: Feed, stands_for: dict[str, Any], show: Show) -> None:
    """Write the states of the layers that are kept, and the index."""
    features = features_of(scorer.prepared.adaptation)
    layers = features.kept
    starts: list[int] = []
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context((folder / name_of(n)).open("wb")) for n in layers]
        for number, states in scorer.features(feed, layers, show):
            states = states if features.goes_on else [one.bfloat16() for one in states]
            flat, width, kind = states[0].dim() == 1, states[0].shape[-1], states[0].dtype
            if not starts:
                lines = [1] * len(feed) if flat else feed.lengths
                starts = list(accumulate(lines, initial=0))
                check_room(folder, starts[-1] * width * kind.itemsize * len(layers))
            for file, one in zip(files, states, strict=True):
                file.seek(starts[number] * width * kind.itemsize)
                file.write(one.contiguous().view(torch.uint8).numpy().tobytes())
    index = {"flat": flat, "width": width, "lines": lines, "stands_for": stands_for,
             "format": str(kind).removeprefix("torch.")}  # fmt: skip
    (folder / INDEX).write_text(to_json(index), encoding="utf-8")
    for file_name in folder.iterdir():
        sync(file_name)


def check_room(folder: Path, size: int) -> None:
    """Refuse to begin what does not fit.

    Raises:
        MachineError: the disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if size + SPARE > free:
        raise MachineError(
            f"trainer.features={folder.parent}: the features take "
            f"{size / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB. Name another folder, "
            "leave trainer.features out (they stay in memory), or lower data.train_rows."
        )


def provenance(prepared: Prepared, feed: Feed) -> dict[str, Any]:
    """Return what the states follow from, in plain data; long parts as digests."""
    model, texts = prepared.adaptation.model, hashlib.sha256()
    for index in range(len(feed)):  # what the model reads alone: other tasks read the same texts
        for name, tensor in sorted(feed.batch([index]).inputs.items()):
            texts.update(f"{name} {tuple(tensor.shape)}".encode())
            texts.update(tensor.contiguous().numpy().tobytes())
    weights = hashlib.sha256()
    for name, tensor in sorted(features_of(prepared.adaptation).weights().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "texts": texts.hexdigest(),
        "weights": weights.hexdigest(),
        "config": {k: v for k, v in config_of(model).to_diff_dict().items() if k not in OF_TASKS},
        "precision": prepared.precision,
        "device": prepared.device.type,
        "summary": features_of(prepared.adaptation).summary,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def damaged(file: Path) -> AdaptError:
    """Return the error for a file that is not whole."""
    return AdaptError(f"{file}: is damaged. Remove its folder: it is computed again.")


def name_of(layer: int) -> str:
    """Return the file of a layer; 0: the embeddings."""
    return f"layer-{layer:02}.bin"


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Wait until no other process adds features here, and keep others from it meanwhile.

    Raises:
        AdaptError: a file lies there.
        MachineError: the folder cannot be written.
    """
    if root.exists() and not root.is_dir():
        raise AdaptError(f"trainer.features={root}: is a file. Name a folder.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise MachineError(f"trainer.features={root}: cannot be written: {error}.") from error
    with lock:
        with contextlib.suppress(ImportError):  # Windows has no such lock
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in root.glob(f".{'[0-9a-f]' * 32}.*.tmp"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield
