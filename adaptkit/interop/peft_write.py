"""PEFT's form of an adaptation: the entries of adapter_config.json and the tensors next to it.

It is read off the modules that methods put into the model, so chains need no rule of their own.
Keys follow PEFT 0.21: `base_model.model.` + module + `.lora_A.weight` and so on. Everything that is
new with the task goes along under `modules_to_save`. PEFT itself is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.adaptation import Adaptation
from adaptkit.errors import AdaptError
from adaptkit.interop.peft_low_rank import low_rank
from adaptkit.layers.prefix import Prefix
from adaptkit.layers.prompt import Prompt
from adaptkit.layers.scaling import InputScale, OutputScales, ScaledTensor, vectors
from adaptkit.models.anatomy import family, is_bias, reader
from adaptkit.models.body import config_of, is_conv1d, shape_of, words_of

PREFIX = "base_model.model."
CLASSIFIER = "SEQ_CLS"


@dataclass(frozen=True)
class PeftForm:
    """The content of PEFT's two files; `holders`: the modules whose parameters are in there."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    holders: frozenset[str] = field(default=frozenset())


@torch.no_grad()
def peft_form(adaptation: Adaptation, task_type: str) -> PeftForm:
    """Return the trained tensors as PEFT would save them; `task_type` is PEFT's word.

    Raises:
        AdaptError: PEFT has no form for it, or its form computes something else.
    """
    model = adaptation.model
    forms = [form for writer in WRITERS if (form := writer(model, task_type))]
    if len(forms) > 1:
        kinds = " and ".join(form.config["peft_type"] for form in forms)
        raise AdaptError(f"{kinds}: one PEFT adapter holds one of them. Try --format merged.")
    form = forms[0] if forms else PeftForm({}, {})
    delta, head = adaptation.delta(), adaptation.head
    written = tuple(f"{holder}." for holder in form.holders)
    left = {n: t for n, t in delta.items() if n not in head and not n.startswith(written)}
    takes_biases = form.config.get("peft_type") == "LORA"
    other = [name for name in left if not (takes_biases and is_bias(name))]
    if other or not forms:
        what = f"{len(other)} of its tensors ({other[0]} ...)" if other else "a head only"
        raise AdaptError(f"PEFT has no form for {what}. Try --format merged, or keep the run.")
    config = {**form.config, "task_type": task_type, "inference_mode": True}
    tensors = form.tensors | _biases(left, form, config)
    saved = modules_to_save(model, head)
    if saved:
        config["modules_to_save"] = saved
    # Prompt methods do not wrap the model, hence another prefix.
    prefix = PREFIX if "target_modules" in config else "base_model."
    tensors |= {f"{prefix}{name}": delta[name] for name in sorted(head)}
    return PeftForm(config, {n: t.detach().clone().contiguous() for n, t in tensors.items()})


def _biases(
    left: Mapping[str, Tensor], form: PeftForm, config: dict[str, Any]
) -> dict[str, Tensor]:
    hosts = {holder.rpartition(".")[0] for holder in form.holders}
    inside = {name: name.rpartition(".")[0] in hosts for name in left}
    if left:
        config["bias"] = "lora_only" if all(inside.values()) else "all"
    return {
        PREFIX + (name[: -len("bias")] + "base_layer.bias" if inside[name] else name): tensor
        for name, tensor in left.items()
    }


def modules_to_save(model: nn.Module, head: frozenset[str]) -> list[str]:
    """Return the largest modules that consist of the head's parameters only, in model order.

    Raises:
        AdaptError: a parameter of the head shares its module with the body's.
    """
    whole: list[str] = []
    for name, module in model.named_modules():
        inside = [f"{name}.{n}".lstrip(".") for n, _ in module.named_parameters()]
        above = any(name.startswith(f"{larger}.") for larger in whole)
        if name and inside and not above and head.issuperset(inside):
            whole.append(name)
    left = [n for n in head if not n.startswith(tuple(f"{name}." for name in whole))]
    if left:
        raise AdaptError(f"{sorted(left)[0]}: new, but in no module of its own for PEFT to save.")
    return whole


def targets(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return names in PEFT's short form: the last word, if all modules of that word are meant.

    PEFT takes every module whose name ends in a dot and an entry.
    """
    adapted = list(names)
    inner = tuple(f"{name}." for name in adapted)  # the modules that the method put there
    every = [n for n, _ in model.named_modules(remove_duplicate=False) if not n.startswith(inner)]
    words: dict[str, None] = {}
    for name in adapted:
        word = name.rpartition(".")[2]
        alike = {n for n in every if n == word or n.endswith(f".{word}")}
        words[word if alike <= set(adapted) else name] = None
    return list(words)


def write_low_rank(model: nn.Module, task_type: str) -> PeftForm | None:
    """Return the form of low-rank updates: LORA, or VERA if one pair of projections serves all.

    Raises:
        AdaptError: PEFT does not have such updates, or not together.
    """
    form = low_rank(model)
    if not form.maps:
        return None
    config = {**form.config, "target_modules": targets(model, form.maps)}
    config |= {"bias": "none", "fan_in_fan_out": _any_conv1d(model, form.maps)}
    tensors = {
        (PREFIX if name.partition(".")[0] != "base_model" else "") + name: tensor
        for name, tensor in form.tensors.items()
    }
    return PeftForm(config, tensors, frozenset(form.holders))


def _any_conv1d(model: nn.Module, names: Iterable[str]) -> bool:
    return any(is_conv1d(model.get_submodule(name)) for name in names)


def write_scales(model: nn.Module, task_type: str) -> PeftForm | None:
    """Return the form of vectors at outputs [out, 1] and inputs [1, in] of maps: IA3.

    Raises:
        AdaptError: a scaled map is a bare tensor.
    """
    outputs: list[str] = []
    inputs: list[str] = []
    tensors: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        host, _, child = name.rpartition(".")
        if isinstance(module, ScaledTensor):
            raise AdaptError(
                f"{host}: a bare tensor, for which PEFT has no IA3. Use --format merged."
            )
        if child == "ia3" and isinstance(module, OutputScales):
            outputs.append(host)
            whole = module.whole(shape_of(model.get_submodule(host))[0])
            tensors[f"{PREFIX}{host}.ia3_l"] = whole.unsqueeze(1)
        elif child == "ia3" and isinstance(module, InputScale):
            inputs.append(host)
            (scale,) = vectors(module).values()
            tensors[f"{PREFIX}{host}.ia3_l"] = scale.unsqueeze(0)
    if not tensors:
        return None
    config = {
        "peft_type": "IA3",
        "target_modules": [*targets(model, outputs), *targets(model, inputs)],
        "feedforward_modules": targets(model, inputs),
        "fan_in_fan_out": _any_conv1d(model, [*outputs, *inputs]),
    }
    return PeftForm(config, tensors, frozenset(f"{n}.ia3" for n in (*outputs, *inputs)))


def write_prompt(model: nn.Module, task_type: str) -> PeftForm | None:
    """Return the form of vectors before the text: PROMPT_TUNING, for every method of prompts.

    Raises:
        AdaptError: PEFT would put them elsewhere, or has no such prompts.
    """
    prompt = dict(model.named_children()).get("prompt")
    if not isinstance(prompt, Prompt):
        return None
    if prompt.inside:
        raise AdaptError("PEFT puts a prompt before the text, this one stands inside a template.")
    if prompt.skip:
        raise AdaptError(
            f"PEFT puts a prompt before the first token of a {family(model).name} model, adaptkit "
            "after it: another function, so there is no PEFT form. Keep the run."
        )
    if task_type == CLASSIFIER:
        raise AdaptError(
            "PEFT puts a prompt before the padding and gives a classifier no token ids, by which "
            "it finds the end of the text: other logits than here. Keep the run."
        )
    words, hugging_face = words_of(reader(model)), config_of(model)
    prompts = prompt.current()
    if len(prompts) > 1:
        raise AdaptError(f"method.prompts={len(prompts)}: PEFT has no ensemble of prompts.")
    filled = prompt.filled(words, prompts)[0]
    config = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": len(filled),
        "token_dim": filled.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": hugging_face.num_attention_heads,
        "num_layers": hugging_face.num_hidden_layers,
    }
    return PeftForm(config, {"prompt_embeddings": filled}, frozenset({"prompt"}))


def reject_prefix(model: nn.Module, task_type: str) -> None:
    """Reject a prefix and say why PEFT has no form of it.

    Raises:
        AdaptError: the model has a prefix.
    """
    if any(isinstance(module, Prefix) for module in model.modules()):
        difference = "moves the text by the prefix's length, which adaptkit leaves in its positions"
        if family(model).encoder_decoder:
            difference = "gives a prefix to the decoder only"
        raise AdaptError(
            f"PEFT {difference}: another function, so there is no PEFT form. Keep the run."
        )


WRITERS: tuple[Callable[[nn.Module, str], PeftForm | None], ...] = (
    write_low_rank, write_scales, write_prompt, reject_prefix,
)  # fmt: skip
