"""LoRA against PEFT: with the same A and B, the same logits, gradients and twenty updates."""

import copy
from dataclasses import dataclass

import pytest
import torch
from families import SENTENCES, tiny_config, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaptkit.adaptation import Adaptation, Context
from adaptkit.methods.lora import LoRA
from adaptkit.models.loading import head_names

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")

QUERY_VALUE = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"], "t5": ["q", "v"],
               "bart": ["q_proj", "v_proj"]}  # fmt: skip
CLASSES = 2
RANK, ALPHA = 4, 6.0
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@dataclass
class Twins:
    """One body adapted by adaptkit and by PEFT, with the same tensors."""

    ours: Adaptation
    theirs: nn.Module
    batch: dict[str, Tensor]

    def pairs(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """{our name: (our parameter, PEFT's)} of everything that learns."""
        named = dict(self.theirs.named_parameters())
        saved = {n.replace(".modules_to_save.default", ""): p for n, p in named.items()}
        return {n: (p, saved[self._peft_name(n)]) for n, p in self.ours.trainable.items()}

    def _peft_name(self, name: str) -> str:
        module, lora, pair = name.partition(".lora.")
        if lora:
            return f"base_model.model.{module}.lora_{pair.rpartition('.')[2]}.default.weight"
        return f"base_model.model.{name}"


def batch_of(family: str) -> dict[str, Tensor]:
    tokenizer = tiny_tokenizer(family)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    return {k: v for k, v in batch.items() if k != "token_type_ids"}


def body_of(family: str) -> nn.Module:
    model = tiny_model(family)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tiny_config(family).eos_token_id
    return model


def adapt(model: nn.Module, roles: tuple[str, ...], stabilised: bool = False) -> Adaptation:
    method = LoRA(RANK, ALPHA, roles=roles, rank_stabilised=stabilised)
    context = Context(None, torch.Generator().manual_seed(0), 20)
    return method.adapt(Adaptation.of(model, head_names(model)), context)


def wrap(
    model: nn.Module, targets: list[str], heads: list[str] | None, stabilised: bool
) -> nn.Module:
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets,
        modules_to_save=heads, use_rslora=stabilised,
    )  # fmt: skip
    return peft.get_peft_model(model, config).eval()


# family, our roles, PEFT's targets. GPT-2's query and value are apart in c_attn: see below.
CASES = [
    *((family, ("query", "value"), targets) for family, targets in QUERY_VALUE.items()),
    ("gpt2", ("output", "up", "down"), ["c_proj", "c_fc"]),
]
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
EXTRA = [
    ("bert", ("query", "key", "up"), ["query", "key", "intermediate.dense"]),
    ("llama", ("all",), LLAMA),
    ("t5", ("all",), ["q", "k", "v", "o", "wi", "wo"]),
    ("bart", ("ffn",), ["fc1", "fc2"]),
]
PARAMS = [
    pytest.param(
        case, id=f"{case[0]}-{'-'.join(case[1])}", marks=[pytest.mark.slow] * (case in EXTRA)
    )
    for case in (*CASES, *EXTRA)
]


def twins_of(
    family: str, roles: tuple[str, ...], targets: list[str], stabilised: bool = False
) -> Twins:
    body = body_of(family)
    # PEFT finds heads named classifier or score by itself.
    heads = ["classification_head"] if family in ("t5", "bart") else None
    theirs = wrap(copy.deepcopy(body), targets, heads, stabilised)
    twins = Twins(adapt(body, roles, stabilised), theirs, batch_of(family))
    generator = torch.Generator().manual_seed(1)
    for name, (mine, its) in twins.pairs().items():
        if ".lora." in name:  # B starts at zero, which would hide mistakes
            tensor = torch.randn(mine.shape, generator=generator) * 0.2
            mine.data.copy_(tensor)
            its.data.copy_(tensor)
    return twins


@pytest.fixture(params=PARAMS)
def twins(request: pytest.FixtureRequest) -> Twins:
    return twins_of(*request.param)


def losses(twins: Twins) -> tuple[Tensor, Tensor]:
    labels = torch.arange(len(SENTENCES)) % CLASSES
    return tuple(
        cross_entropy(model(**twins.batch).logits, labels)
        for model in (twins.ours.model.eval(), twins.theirs.eval())
    )


def test_the_same_parameters_learn(twins: Twins) -> None:
    theirs = {id(p): n for n, p in twins.theirs.named_parameters() if p.requires_grad}
    assert {id(its) for _, its in twins.pairs().values()} == set(theirs)
    assert all(mine.shape == its.shape for mine, its in twins.pairs().values())


@torch.no_grad()
def test_logits(twins: Twins) -> None:
    mine = twins.ours.model(**twins.batch).logits
    torch.testing.assert_close(mine, twins.theirs(**twins.batch).logits, **TOLERANCE)
    with twins.theirs.disable_adapter():
        assert not torch.allclose(mine, twins.theirs(**twins.batch).logits, atol=1e-2)


def test_gradients(twins: Twins) -> None:
    for loss in losses(twins):
        loss.backward()
    for name, (mine, its) in twins.pairs().items():
        torch.testing.assert_close(
            mine.grad, its.grad, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert mine.grad.any(), name


def test_twenty_updates(twins: Twins) -> None:
    pairs = twins.pairs()
    before = {name: mine.detach().clone() for name, (mine, _) in pairs.items()}
    sides = [[pair[side] for pair in pairs.values()] for side in (0, 1)]
    # With a tiny epsilon, Adam would turn rounding noise of near-zero gradients into full steps.
    optimizers = [torch.optim.AdamW(side, lr=1e-4, weight_decay=0.01, eps=1e-5) for side in sides]
    for _ in range(20):
        found = losses(twins)
        torch.testing.assert_close(*found, **TOLERANCE)
        for loss, optimizer in zip(found, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, (mine, its) in pairs.items():
        torch.testing.assert_close(mine, its, **TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
        assert (mine - before[name]).abs().max() > 1e-4


@torch.no_grad()
def test_merged_like_peft(twins: Twins) -> None:
    twins.ours.merge()
    merged = twins.theirs.merge_and_unload().state_dict()
    mine = twins.ours.model.state_dict()
    assert set(mine) == set(merged)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, merged[name], **TOLERANCE)


@torch.no_grad()
def test_rank_stabilised_scale() -> None:
    twins = twins_of("bert", ("query", "value"), ["query", "value"], stabilised=True)
    mine = twins.ours.model(**twins.batch).logits
    torch.testing.assert_close(mine, twins.theirs(**twins.batch).logits, **TOLERANCE)


@torch.no_grad()
def test_gpt2_query_and_value_are_a_block_form_of_pefts_pair() -> None:
    """PEFT puts one pair beside c_attn: of rank 2 r, with zeros where ours do not mix.

    A [2 r, in] = [A_q; A_v]; B [3 H, 2 r] = [[B_q, 0], [0, 0], [0, B_v]]; alpha / 2 r must be our
    alpha / r, so alpha doubles.
    """
    body = body_of("gpt2")
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=2 * RANK, lora_alpha=2 * ALPHA, target_modules=["c_attn"]
    )
    theirs = peft.get_peft_model(copy.deepcopy(body), config).eval()
    ours = adapt(body, ("query", "value"))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in ours.trainable.items():
        if ".lora." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    learnt = {name: p for name, p in ours.trainable.items() if ".lora." in name}
    stems = sorted({name.partition(".lora.")[0] for name in learnt})
    assert len(stems) == 3
    named, width = dict(theirs.named_parameters()), body.config.n_embd
    for stem in stems:
        q, v = ({k: learnt[f"{stem}.lora.{role}.{k}"] for k in "AB"} for role in ("query", "value"))
        named[f"base_model.model.{stem}.lora_A.default.weight"].copy_(torch.cat([q["A"], v["A"]]))
        whole = torch.zeros(3 * width, 2 * RANK)
        whole[:width, :RANK] = q["B"]
        whole[2 * width :, RANK:] = v["B"]
        named[f"base_model.model.{stem}.lora_B.default.weight"].copy_(whole)
    batch = batch_of("gpt2")
    mine = ours.model(**batch).logits
    torch.testing.assert_close(mine, theirs(**batch).logits, **TOLERANCE)
