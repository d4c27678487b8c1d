"""Finding the parts of a model: which modules, rows and tensors have a role.

The names themselves stand in `adaptkit.models.families`. No torch at import time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptkit.errors import AdaptError, did_you_mean, each_of
from adaptkit.models.body import base_of, config_of, outputs_of, shape_of, weight_of, words_of
from adaptkit.models.families import FAMILIES
from adaptkit.models.layout import FFN, NORMS, QKV, ROLES, Family

if TYPE_CHECKING:
    from torch import Tensor, nn

CHOICES = (*ROLES, "ffn", "all")  # of linear maps, as a user names them
Match = tuple[str, "nn.Module", str]  # full name, module, bare parameter or ""


@dataclass(frozen=True)
class Site:
    """One linear map of the body, its slice in a fused map, or a bare tensor used as one."""

    role: str
    module: str  # full name in the task's model
    fan_in: int
    fan_out: int
    rows: tuple[int, ...] | None = None  # outputs of a fused map that belong to this role
    parameter: str | None = None  # the module's bare tensor (XLNet) instead of the module itself

    @property
    def name(self) -> str:
        """The map's full name, for messages."""
        return f"{self.module}.{self.parameter}" if self.parameter else self.module


def family_of(model_type: str) -> Family:
    """Return the family of a config's model_type.

    Raises:
        AdaptError: adaptkit does not know this architecture.
    """
    if model_type not in FAMILIES:
        raise AdaptError(
            f"architecture {model_type!r} is not supported; "
            f"{did_you_mean(model_type, FAMILIES)}Supported: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def family(model: nn.Module) -> Family:
    """Return the family of a Hugging Face model.

    Raises:
        AdaptError: adaptkit does not know this architecture.
    """
    return family_of(config_of(model).model_type)


def check_roles(
    roles: Collection[str], extra: Iterable[str] = (), field: str = "method.roles"
) -> None:
    """Reject roles that no family has.

    Raises:
        ConfigError: there are none, or one is neither in CHOICES nor in `extra`.
    """
    each_of(field, roles, (*CHOICES, *extra))


def expand(roles: Iterable[str]) -> tuple[str, ...]:
    """Replace 'ffn' and 'all' by the roles they stand for, each once, in a fixed order."""
    named = {"ffn": FFN, "all": ROLES}
    wanted = {r for role in roles for r in named.get(role, (role,))}
    return tuple(r for r in (*ROLES, *NORMS) if r in wanted)


def base_prefix(model: nn.Module) -> str:
    """Return the dotted prefix of the base model's names inside the task's model."""
    base = base_of(model)
    return next(f"{n}." if n else "" for n, module in model.named_modules() if module is base)


def matches(model: nn.Module, patterns: Iterable[str]) -> Iterator[Match]:
    """Yield (full name, module, bare parameter or '') of all that match, in the model's order."""
    prefix = base_prefix(model)
    wanted = [pattern.partition("@") for pattern in patterns]
    compiled = [
        (re.compile(re.escape(prefix + stem).replace(r"\*", r"[^.]+")), tensor)
        for stem, _, tensor in wanted
    ]
    for name, module in model.named_modules():
        for pattern, tensor in compiled:
            if pattern.fullmatch(name):
                yield name, module, tensor


def sites(model: nn.Module, roles: Iterable[str]) -> list[Site]:
    """Return every linear map with one of `roles` ('ffn' and 'all' among them), role by role.

    Raises:
        AdaptError: a role matches nothing; the message lists the roles that exist.
    """
    named = set(roles)
    return [_site(model, role, *hit) for role in expand(named) for hit in _hits(model, role, named)]


def _hits(model: nn.Module, role: str, named: Container[str]) -> list[Match]:
    """Return all that has a role.

    Raises:
        AdaptError: nothing has it. A family without a gate is not a mistake under 'ffn' or 'all',
            only if 'gate' is `named` by itself.
    """
    hits = list(matches(model, _patterns(model, role)))
    if not hits and (role in named or role != "gate"):
        raise AdaptError(_no_such_role(model, role))
    return hits


def word_embeddings(model: nn.Module) -> Site:
    """Return the table of word embeddings as a map from the vocabulary, with role 'embeddings'.

    Raises:
        AdaptError: the table is the output map as well, which a low-rank update would not reach.
    """
    table, output = words_of(model), outputs_of(model)
    if output is not None and weight_of(output) is table.weight:
        raise AdaptError(
            f"role 'embeddings': this {family(model).name} model uses its word embeddings as its "
            "output map as well, which a low-rank update would not reach. Choose other roles."
        )
    first, *_ = sharing(model, table.weight)
    return Site("embeddings", first, *table.weight.shape)


def sharing(model: nn.Module, table: Tensor) -> list[str]:
    """Return the names of the modules whose weight is `table`: T5 and BART have several."""
    return [n for n, module in model.named_modules() if getattr(module, "weight", None) is table]


def _patterns(model: nn.Module, role: str) -> tuple[str, ...]:
    return family(model).parts.get(role, ())


def _no_such_role(model: nn.Module, role: str) -> str:
    known = [r for r in (*ROLES, *NORMS) if any(matches(model, _patterns(model, r)))]
    return (
        f"role {role!r} matches nothing in this {family(model).name} model. "
        f"There is: {', '.join(known)}."
    )


def _site(model: nn.Module, role: str, name: str, module: nn.Module, tensor: str) -> Site:
    if tensor:  # XLNet: [H, heads, head size]; `o` is used the other way round
        d, heads, size = getattr(module, tensor).shape
        fan_in, fan_out = (heads * size, d) if tensor == "o" else (d, heads * size)
        return Site(role, name, fan_in, fan_out, parameter=tensor)
    fan_out, fan_in = shape_of(module)
    if role in QKV and family(model).fused:
        rows = fused_rows(model, QKV.index(role), fan_out)
        return Site(role, name, fan_in, len(rows), rows=rows)
    return Site(role, name, fan_in, fan_out)


def fused_rows(model: nn.Module, part: int, fan_out: int) -> tuple[int, ...]:
    """Return which outputs of a fused map are query (part 0), key (1) or value (2)."""
    third = fan_out // 3
    if family(model).fused == "blocks":
        return tuple(range(part * third, (part + 1) * third))
    heads = config_of(model).num_attention_heads
    size = third // heads  # GPT-NeoX: q, k, v of head 0, of head 1, ...
    return tuple(head * 3 * size + part * size + i for head in range(heads) for i in range(size))


def points(model: nn.Module, roles: Iterable[str]) -> list[tuple[str, nn.Module]]:
    """Return (name, module) of all that has one of `roles` (POINTS or NORMS), in model order."""
    patterns = [pattern for role in roles for pattern in _patterns(model, role)]
    return [(name, module) for name, module, _ in matches(model, patterns)]


def norms(model: nn.Module) -> set[str]:
    """Return the names of the parameters of the body's norms, the embeddings' included."""
    prefix = base_prefix(model)
    return {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if name.startswith(prefix) and type(module).__name__.endswith("Norm")
        for parameter, _ in module.named_parameters(recurse=False)
    }


def post_norm(model: nn.Module) -> bool:
    """Tell whether the norms of a layer stand after its residual sums, as in BERT."""
    return family(model).post_norm(config_of(model))


def width(model: nn.Module) -> int:
    """Return the width H of the residual stream."""
    return config_of(model).hidden_size


def is_bias(name: str) -> bool:
    """Tell whether a parameter's name is that of a bias (XLNet's attention biases included)."""
    return name.endswith("bias")


def biases(model: nn.Module, components: Iterable[str] | None) -> set[str]:
    """Return the names of all of the body's biases, or of those of the named roles.

    Raises:
        AdaptError: a role stands for part of a fused map, whose bias cannot be split, or has none.
    """
    prefix = base_prefix(model)
    body = {n for n, _ in model.named_parameters() if n.startswith(prefix) and is_bias(n)}
    if components is None:
        return body
    named, names = set(components), set()
    for role in expand(named):
        if role in QKV and family(model).fused and not set(QKV) <= set(expand(named)):
            raise AdaptError(
                f"method.components={role}: {family(model).name} keeps query, key and value in "
                "one bias. Choose all three, or all."
            )
        hits = _hits(model, role, named)
        found = body & {f"{name}.bias" for name, _, tensor in hits if not tensor}
        if role in named and not found:
            raise AdaptError(
                f"method.components={role}: {family(model).name} models have no bias there that "
                "could be trained. Choose other components, or another method."
            )
        names |= found
    return names


def layer_count(model: nn.Module) -> int:
    """Return the number of layers (of the encoder, if there are two stacks)."""
    if family(model).shared_layers:
        return config_of(model).num_hidden_layers
    return sum(1 for _ in matches(model, (family(model).layers,)))


def encoder(model: nn.Module) -> nn.Module:
    """Return the part that reads the text: the base model, or the encoder of two stacks."""
    base = base_of(model)
    return base.get_submodule("encoder") if family(model).encoder_decoder else base


def reader(model: nn.Module) -> nn.Module:
    """Return the stack that turns words into their embeddings and reads them."""
    return base_of(model).get_submodule(family(model).reader)


def decoder(model: nn.Module) -> nn.Module | None:
    """Return the second of two stacks, or None if there is only one."""
    if not family(model).encoder_decoder:
        return None
    return dict(base_of(model).named_children()).get("decoder")  # T5 has a class without it


def roles_of(model: nn.Module) -> dict[str, str]:
    """Return for every parameter of the body its role, 'embeddings', 'norms' or 'other'."""
    prefix = base_prefix(model)
    owners = {
        name + ("@" + tensor if tensor else ""): role
        for role in (*ROLES, *NORMS)
        for name, _, tensor in matches(model, _patterns(model, role))
    }
    if family(model).fused:
        owners = {n: "query+key+value" if r in QKV else r for n, r in owners.items()}
    named = [n for n, _ in model.named_parameters() if n.startswith(prefix)]
    return {name: _role(name, owners) for name in named}


def _role(name: str, owners: Mapping[str, str]) -> str:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        owner = ".".join(parts[:end])
        tensor = ".".join(parts[: end - 1]) + "@" + parts[end - 1]
        if owner in owners or tensor in owners:
            role = owners.get(owner) or owners[tensor]
            return "norms" if role in NORMS else role
    if re.search(r"norm|\bln_f\b", name, re.IGNORECASE) and "embed" not in name.lower():
        return "norms"
    is_embedding = re.search(r"embed|\bwte\b|\bwpe\b|shared|relative_attention_bias", name)
    return "embeddings" if is_embedding else "other"
