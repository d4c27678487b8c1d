"""R3F, R4F and R-Drop: the papers' numbers, every form and family, and what they leave alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import tiny_model, tiny_tokenizer
from test_forms import KINDS, PAIRS, configured
from torch import nn
from torch.nn.functional import kl_div, log_softmax, mse_loss

from adaptkit.adaptation import Step
from adaptkit.errors import AdaptError
from adaptkit.layers.consistency import Bounded, distance
from adaptkit.methods.lora import LoRA
from adaptkit.methods.probe import Probe
from adaptkit.models.body import draws_dropout
from adaptkit.regularizers.r3f import R3F, R4F
from adaptkit.regularizers.r_drop import RDrop
from adaptkit.runs.prepare import feed_of, prepare

NOW = Step(0, 3, 1e-3)
LOUD = R3F(strength=0.7, noise=0.3, kind="normal", dropout="shared")


# ---- the numbers of the papers ----


def test_the_divergence_is_the_sum_of_both_directions():
    one, two = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.9, 0.1, -1.0]])
    assert float(distance(one, two, False)) == pytest.approx(0.00455989, abs=1e-8)


def test_the_divergence_against_torch_and_with_absent_classes():
    one, two = torch.randn(2, 5, 4, dtype=torch.double)
    p, q = log_softmax(one.float(), -1), log_softmax(two.float(), -1)
    both = kl_div(q, p, log_target=True, reduction="batchmean")
    both = both + kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(distance(one, two, False), both)
    absent = torch.full((5, 2), -torch.inf)
    wider = [torch.cat([logits, absent], -1).requires_grad_() for logits in (one, two)]
    found = distance(*wider, False)
    torch.testing.assert_close(found, both)
    found.backward()
    assert all(bool(logits.grad.isfinite().all()) for logits in wider)


def test_numbers_are_compared_by_their_squared_difference():
    one, two = torch.randn(2, 6, 1)
    torch.testing.assert_close(distance(one, two, True), mse_loss(one, two))
    assert float(distance(one[:0], two[:0], True)) == 0


def test_the_bounded_map_has_norm_one_and_folds_into_its_weight():
    module = nn.Linear(7, 3)
    plain, x = copy.deepcopy(module), torch.randn(4, 7)
    bounded = Bounded(module)
    largest = torch.linalg.svdvals(plain.weight.detach())[0]
    torch.testing.assert_close(module(x), x @ (plain.weight / largest).T + plain.bias)
    before = module(x).detach()
    module(x).sum().backward()  # the norm takes part in the gradient
    other = (x @ (plain.weight / torch.linalg.svdvals(plain.weight)[0]).T + plain.bias).sum()
    other.backward()
    torch.testing.assert_close(module.weight.grad, plain.weight.grad)
    bounded.fold()
    torch.testing.assert_close(module(x).detach(), before)
    torch.testing.assert_close(torch.linalg.svdvals(module.weight.detach())[0], torch.tensor(1.0))


# ---- in a run ----


def made(kind: str, checkpoint: Any, regularizer: Any, method: Any = None) -> tuple[Any, Any]:
    settings = configured(kind, checkpoint)
    changes = {"regularizers": {"one": regularizer}} if regularizer else {}
    prepared = prepare(replace(settings, method=method or settings.method, **changes), 1, "train")
    return prepared, feed_of(settings, prepared, KINDS[kind].rows)


def term(prepared: Any, batch: Any) -> torch.Tensor:
    model = prepared.adaptation.model
    (penalty,) = prepared.adaptation.penalty.values()

    def forward(**changes: Any) -> Any:
        return model(**{**batch.inputs, **changes})

    found = penalty(forward, batch, forward(), NOW)
    assert found.requires_grad
    return found


QUICK = ("bert", "xlnet", "gpt2", "t5", "bart")
CASES = [
    pytest.param(*p.values, marks=p.marks if p.values[1] in QUICK else pytest.mark.slow)
    for p in PAIRS
]


@pytest.mark.sampled
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_form_has_something_to_compare(kind, family, checkpoints):
    """Equal masks and no noise: 0. Noise on the words of a row: more, with gradients."""
    prepared, feed = made(kind, checkpoints[family], LOUD)
    model, batch = prepared.adaptation.model.train(), feed.batch(range(4))
    torch.manual_seed(0)
    found = term(prepared, batch)
    assert found.item() > 1e-6
    found.backward()
    grads = [p.grad for p in prepared.adaptation.trainable.values() if p.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in grads) > 0
    still = replace(LOUD, noise=0.0)
    prepared, feed = made(kind, checkpoints[family], still)
    prepared.adaptation.model.train()
    assert term(prepared, batch).item() == pytest.approx(0, abs=1e-9)
    views = prepared.form.compared(model(**batch.inputs), batch)
    assert len(views) == (2 * len(batch.rows) if kind == "span" else batch.weight)


def test_the_penalty_is_the_papers_with_noise_drawn_by_hand(checkpoints):
    regularizer = replace(LOUD, dropout="independent")
    prepared, feed = made("classify", checkpoints["bert"], regularizer)
    model, batch = prepared.adaptation.model.eval(), feed.batch(range(4))  # no dropout
    torch.manual_seed(3)
    found = term(prepared, batch)
    torch.manual_seed(3)
    seed = int(torch.randint(2**62, ()))
    plain, _ = made("classify", checkpoints["bert"], None)
    other = plain.adaptation.model.eval()
    other.load_state_dict(model.state_dict())
    words = other.get_input_embeddings()(batch.inputs["input_ids"])
    noise = torch.empty(words.shape).normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    rest = {name: value for name, value in batch.inputs.items() if name != "input_ids"}
    p = other(**batch.inputs).logits.log_softmax(-1)
    q = other(inputs_embeds=words + noise, **rest).logits.log_softmax(-1)
    expected = ((p.exp() - q.exp()) * (p - q)).sum() / 4
    torch.testing.assert_close(found, 0.7 * expected)


def test_shared_masks_are_those_of_the_first_pass_behind_other_passes(checkpoints):
    """R-Drop in front of it passes the batch through once more."""
    settings = configured("classify", checkpoints["bert"])
    regularizers = {"r_drop": RDrop(), "r3f": replace(LOUD, noise=0.0)}
    prepared = prepare(replace(settings, regularizers=regularizers), 1, "train")
    feed = feed_of(settings, prepared, KINDS["classify"].rows)
    model = prepared.adaptation.model.train()
    assert prepared.adaptation.passes == 3
    for rows in (range(4), range(4, 8), range(4)):
        batch = feed.batch(rows)

        def forward(**changes: Any) -> Any:
            return model(**{**batch.inputs, **changes})  # noqa: B023

        outputs = forward()
        found = {
            name: one(forward, batch, outputs, NOW).item()
            for name, one in prepared.adaptation.penalty.items()
        }
        assert found["r3f"] == pytest.approx(0, abs=1e-9) and found["r_drop"] != 0


def test_r_drop_is_its_formula(checkpoints):
    prepared, feed = made("classify", checkpoints["bert"], RDrop(alpha=0.4))
    model, batch = prepared.adaptation.model.train(), feed.batch(range(4))
    torch.manual_seed(1)
    found = term(prepared, batch)
    torch.manual_seed(1)
    one, two = model(**batch.inputs), model(**batch.inputs)
    losses = [prepared.form.loss(each, batch) / 4 for each in (one, two)]
    p, q = one.logits.softmax(-1), two.logits.softmax(-1)
    apart = (p * (p / q).log() + q * (q / p).log()).sum(-1).mean()
    whole = sum(losses) / 2 + 0.4 / 2 * apart
    torch.testing.assert_close(losses[0] + found, whole)


@pytest.mark.parametrize("family", ["bert", "bart", "opt", "gpt2", "llama"])
def test_a_model_has_dropout_if_two_passes_differ(family):
    """BART and OPT apply it without a module; the small LLaMA has none."""
    model = tiny_model(family).train()
    inputs = dict(tiny_tokenizer(family)(["a good film"], return_tensors="pt"))
    one, two = (model(**inputs).logits for _ in range(2))
    assert draws_dropout(model) is not torch.equal(one, two)
    assert draws_dropout(model) is (family != "llama")


def test_r4f_saves_what_it_has_divided(checkpoints):
    regularizer = R4F(bounded="all")
    prepared, _ = made("classify", checkpoints["roberta"], regularizer)
    maps = [m for n, m in prepared.adaptation.model.named_modules() if n.startswith("classifier.")
            and isinstance(m, nn.Linear)]  # fmt: skip
    assert len(maps) == 2
    for last in prepared.adaptation.finish:
        last()
    for module in maps:
        largest = torch.linalg.svdvals(module.weight.detach())[0]
        torch.testing.assert_close(largest, torch.tensor(1.0))


@pytest.mark.parametrize(
    ("kind", "family", "regularizer", "method", "why"),
    [
        ("classify", "bert", R3F(), Probe(), "computes its features once"),
        ("classify", "bert", RDrop(), Probe(), "computes its features once"),
        ("classify", "llama", RDrop(), LoRA(dropout=0.0), "has no dropout"),
        ("seq2seq", "t5", R4F(), None, "bounds a new head"),
    ],
)
def test_what_is_rejected(kind, family, regularizer, method, why, checkpoints):
    with pytest.raises(AdaptError, match=why):
        made(kind, checkpoints[family], regularizer, method)
