"""Models without numbers, for plans: built from a config, compared with a checkpoint's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import safetensors
import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from adaptkit.errors import AdaptError
from adaptkit.models.checkpoint import folder_of, reason
from adaptkit.models.heads import HEADS
from adaptkit.models.loading import Loaded, auto_class, with_hooks
from adaptkit.models.weights import new_names, read_weights, stored_as, ties

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adaptkit.models.model import Model


@dataclass(frozen=True)
class Gaps:
    """What a checkpoint's files say about a model, without their numbers."""

    lacking: frozenset[str] = frozenset()  # parameters
    untied: frozenset[str] = frozenset()  # stored apart from the table that the config ties them to


def gaps(model: Model, config: PretrainedConfig, head: str) -> Gaps:
    """Read off the files of a folder what they lack; of a hub id, what its family is known for.

    Raises:
        AdaptError: as `load_model`, unless the numbers themselves are the matter.
    """
    folder = folder_of(model.path)
    if folder is None:
        return Gaps(untied=frozenset() if ties(config) else frozenset({"lm_head.weight"}))
    loaded, lacking = read_weights(model, config, head, device_map="meta")
    stored = stored_as(loaded, folder)
    untied = {
        target
        for target, source in tied_names(loaded).items()
        if target in stored and source in stored and not _equal(stored[target], stored[source])
    }
    return Gaps(frozenset(lacking), frozenset(untied))


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return which parameter is which other one, by name, as the config says."""
    return cast("PreTrainedModel", model).all_tied_weights_keys


def _equal(one: tuple[str, Path, str], other: tuple[str, Path, str]) -> bool:
    tensors = []
    for name, file, _ in (one, other):
        with safetensors.safe_open(file, "pt") as stored:
            tensors.append(stored.get_tensor(name))
    return torch.equal(*tensors)


def empty_model(model: Model, config: PretrainedConfig, head: str, gaps: Gaps = Gaps()) -> Loaded:
    """Build the model from its config alone, under the caller's fake tensors.

    `gaps`: what its files lack (BERT's pooler, after masked-language-model pretraining) is new.

    Raises:
        AdaptError: config.json describes no model that can be built.
    """
    try:
        with no_init_weights():
            empty = auto_class(head).from_config(config)
    except Exception as error:
        raise AdaptError(
            f"model.path={model.path}: config.json does not describe a model that can be built: "
            f"{reason(error)}. Correct the file, or fetch it again."
        ) from error
    for name in gaps.untied & tied_names(empty).keys():
        del tied_names(empty)[name]
    empty.tie_weights(recompute_mapping=False)  # left out along with the values
    return Loaded(
        with_hooks(empty, model, HEADS[head]), new_names(empty, gaps.lacking, head), "", "new"
    )
