"""Prompt tuning and P-tuning against forwards built by hand, PEFT where it is right, and traps."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, SENTENCES, _build, tiny_config, tiny_model, tiny_tokenizer
from runs import carry_out, configure, sentiment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache
from transformers.modeling_outputs import SequenceClassifierOutput

from adaptkit.adaptation import Adaptation, Batch, Context
from adaptkit.config import compose
from adaptkit.config import settings as config
from adaptkit.errors import AdaptError, ConfigError
from adaptkit.layers.ensemble import Ensemble, vote
from adaptkit.layers.prompt import PromptEncoder, cut_out, single, splice
from adaptkit.methods.chain import Chain
from adaptkit.methods.lora import LoRA
from adaptkit.methods.prompt import PromptTuning
from adaptkit.methods.ptuning import PTuning
from adaptkit.models.anatomy import reader
from adaptkit.models.calls import cache_in
from adaptkit.models.heads import HEADS as MODEL_HEADS
from adaptkit.models.loading import head_names
from adaptkit.models.padding import with_padding_moved
from adaptkit.runs import plan
from adaptkit.runs.delta import load_run
from adaptkit.runs.prepare import feed_of, restored
from adaptkit.tasks.forms.head import HeadForm

SEQUENCE = MODEL_HEADS["sequence"]

P = 5
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
FRONT = ("xlnet", "gpt2", "opt", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "t5",
         "modernbert-decoder", "gemma3_text")  # fmt: skip
LMS = {"gpt2": "GPT2LMHeadModel", "opt": "OPTForCausalLM", "llama": "LlamaForCausalLM",
       "t5": "T5ForConditionalGeneration", "bart": "BartForConditionalGeneration"}  # fmt: skip


def context_of(family: str, seed: int = 0, **options: Any) -> Context:
    return Context(
        tiny_tokenizer(family), torch.Generator().manual_seed(seed), 3, **options
    )  # fmt: skip


def adapt(family: str, model: nn.Module, method: Any, **options: Any) -> Adaptation:
    start = Adaptation.of(model, head_names(model))
    adaptation = method.adapt(start, context_of(family, **options))
    model.eval()
    return adaptation


def shake(model: nn.Module, seed: int = 1) -> Tensor:
    """Large random prompts, so that a misplaced one shows; return them."""
    vectors = model.prompt.vectors
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    vectors.data.copy_(noise)
    return noise


def classifier(family: str) -> nn.Module:
    model = tiny_model(family)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tiny_config(family).eos_token_id
    return model


def lm(family: str) -> nn.Module:
    settings = tiny_config(family)
    settings.forced_eos_token_id = None
    if family == "bart":
        settings.scale_embedding = True
    return _build(getattr(transformers, LMS[family]), settings, 0)


def encoded(family: str, texts: list[str], side: str = "right") -> dict[str, Tensor]:
    tokenizer = tiny_tokenizer(family)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = side
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def words_of(model: nn.Module) -> Tensor:
    """The word embeddings, scaled where the family does that."""
    scaled = getattr(model.config, "scale_embedding", model.config.model_type == "gemma3_text")
    scale = model.config.hidden_size**0.5 if scaled else 1.0
    return model.get_input_embeddings().weight.detach() * scale


def by_hand(family: str, plain: nn.Module, ids: Tensor, prompt: Tensor) -> Tensor:
    """Embeddings [1, T + P, d] of one unpadded text with the prompt in its place."""
    text = words_of(plain)[ids]
    place = 0 if family in FRONT else 1
    return torch.cat([text[:, :place], prompt[None], text[:, place:]], 1)


@torch.no_grad()
def class_logits(family: str, plain: nn.Module, batch: dict[str, Tensor], prompt: Tensor) -> Tensor:
    """Logits of one unpadded text by the untouched classifier, fed with embeddings."""
    ids = batch["input_ids"]
    embeds = by_hand(family, plain, ids, prompt)
    inputs = {"inputs_embeds": embeds, "attention_mask": torch.ones(embeds.shape[:2]).long()}
    if "token_type_ids" in batch:
        types, place = batch["token_type_ids"], 0 if family in FRONT else 1
        zeros = types.new_zeros(1, len(prompt))
        inputs["token_type_ids"] = torch.cat([types[:, :place], zeros, types[:, place:]], 1)
    if family == "modernbert":  # the mean over the text, not over the prompt
        hidden = plain.model(**inputs).last_hidden_state
        text = torch.cat([hidden[:, :1], hidden[:, 1 + len(prompt) :]], 1)
        return plain.classifier(plain.head(text.mean(1)))
    if family == "eurobert":  # the mean of the logits
        hidden = plain.model(**inputs).last_hidden_state
        text = torch.cat([hidden[:, :1], hidden[:, 1 + len(prompt) :]], 1)
        return plain.classifier(plain.activation(plain.dense(text))).mean(1)
    if family in ("t5", "bart"):
        start = torch.tensor([[plain.config.decoder_start_token_id]])
        inputs["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], 1)
        body = plain.transformer if family == "t5" else plain.model
        return plain.classification_head(body(**inputs).last_hidden_state[:, -1])
    return plain(**inputs).logits


# ---- the forward pass ----


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_forward_built_by_hand(family: str) -> None:
    plain = classifier(family)
    model = with_padding_moved(copy.deepcopy(plain), SEQUENCE)
    adapt(family, model, PromptTuning(P))
    prompt = shake(model)[0]
    with torch.no_grad():
        for side in ("right", "left"):
            batch = encoded(family, SENTENCES, side)
            assert batch["attention_mask"].min() == 0
            together = model(**batch).logits
            for row, text in enumerate(SENTENCES[:3]):
                expect = class_logits(family, plain, encoded(family, [text]), prompt)
                torch.testing.assert_close(together[row : row + 1], expect, **CLOSE)
    without = plain(**encoded(family, SENTENCES[:1])).logits
    assert (without - together[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet", "modernbert", "deberta-v2"])
def test_the_head_sees_as_many_positions_as_the_text_has(family: str) -> None:
    model = with_padding_moved(classifier(family), SEQUENCE)
    adapt(family, model, PromptTuning(P))
    batch = encoded(family, SENTENCES)
    with torch.no_grad():
        body = model.base_model(**batch, output_hidden_states=True)
        whole = model(**batch, output_hidden_states=True)
    shape = (*batch["input_ids"].shape, 32)
    assert body.last_hidden_state.shape == shape
    assert all(hidden.shape == shape for hidden in (*body.hidden_states, *whole.hidden_states))


def test_tags_and_spans_stay_aligned() -> None:
    for name in ("BertForTokenClassification", "BertForQuestionAnswering"):
        plain = _build(getattr(transformers, name), tiny_config("bert"), 0)
        model = copy.deepcopy(plain)
        adapt("bert", model, PromptTuning(P))
        prompt = shake(model)[0]
        batch = dict(tiny_tokenizer("bert")(*SENTENCES[:2], return_tensors="pt"))
        types = batch["token_type_ids"]
        assert types.max() == 1  # PEFT loses them, so that question and passage are one segment
        types = torch.cat([types[:, :1], types.new_zeros(1, P), types[:, 1:]], 1)
        with torch.no_grad():
            found = model(**batch)
            text = by_hand("bert", plain, batch["input_ids"], prompt)
            expect = plain(inputs_embeds=text, token_type_ids=types)
        for key in expect:
            text = torch.cat([expect[key][:, :1], expect[key][:, 1 + P :]], 1)
            torch.testing.assert_close(found[key], text, **CLOSE)


def test_positional_inputs_and_embeddings() -> None:
    model = classifier("bert")
    adapt("bert", model, PromptTuning(P))
    batch = encoded("bert", SENTENCES[:2])
    with torch.no_grad():
        expect = model(**batch).logits
        ordered = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        embeds = words_of(model)[batch.pop("input_ids")]
        assert torch.equal(model(*ordered).logits, expect)
        torch.testing.assert_close(model(inputs_embeds=embeds, **batch).logits, expect, **CLOSE)


def test_spliced() -> None:
    values = torch.tensor([[1, 2, 3], [4, 5, 6]])
    fill = torch.tensor([[-1, -2], [-3, -4]])
    found = splice(values, fill, torch.tensor([[0], [2]]))
    assert found.tolist() == [[-1, -2, 1, 2, 3], [4, 5, -3, -4, 6]]
    end = splice(values[:, :, None], fill[:, :, None], torch.tensor([[3], [1]]))
    assert end[..., 0].tolist() == [[1, 2, 3, -1, -2], [4, -3, -4, 5, 6]]


@pytest.mark.parametrize("column", (0, 1, 3))
def test_one_column_for_all_rows_is_a_slice(column: int) -> None:
    values, fill = torch.arange(12.0).view(2, 3, 2), -torch.arange(1.0, 9.0).view(2, 2, 2)
    columns = torch.full((2, 1), column)
    assert single(columns) == column
    mixed = torch.tensor([[0], [2]])
    assert single(mixed) is mixed
    for start in (column, columns):
        wide = splice(values, fill, start)
        expect = [*values[0, :column].tolist(), *fill[0].tolist(), *values[0, column:].tolist()]
        assert wide[0].tolist() == expect
        assert torch.equal(cut_out(wide, start, 2), values)
    assert torch.equal(cut_out(splice(values, fill, mixed), mixed, 2), values)


# ---- generation ----

STEPS = 6


def generate(model: nn.Module, batch: dict[str, Tensor], beams: int, cache: bool) -> Tensor:
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    out = model.generate(**batch, num_beams=beams, use_cache=cache, **options)
    return out[:, -STEPS:]


@torch.no_grad()
def step_by_step(family: str, plain: nn.Module, ids: Tensor, prompt: Tensor) -> Tensor:
    """Greedy decoding by whole forwards of the untouched model, fed with embeddings."""
    text = by_hand(family, plain, ids, prompt)
    made = torch.empty(1, 0).long()
    start = getattr(plain.config, "decoder_start_token_id", None)
    for _ in range(STEPS):
        if plain.config.is_encoder_decoder:
            so_far = torch.cat([torch.tensor([[start]]), made], 1)
            logits = plain(inputs_embeds=text, decoder_input_ids=so_far).logits
        else:
            logits = plain(inputs_embeds=torch.cat([text, words_of(plain)[made]], 1)).logits
        logits = logits[:, -1]
        logits[:, plain.generation_config.eos_token_id] = -torch.inf
        made = torch.cat([made, logits.argmax(-1, keepdim=True)], 1)
    return made


@pytest.mark.parametrize("family", LMS)
def test_generation(family: str) -> None:
    plain = lm(family)
    model = copy.deepcopy(plain)
    adapt(family, model, PromptTuning(P))
    prompt = shake(model)[0]
    side = "right" if plain.config.is_encoder_decoder else "left"
    batch = {k: v for k, v in encoded(family, SENTENCES[:3], side).items() if "type" not in k}
    assert batch["attention_mask"].min() == 0
    alone = [encoded(family, [text])["input_ids"] for text in SENTENCES[:3]]
    expect = torch.cat([step_by_step(family, plain, ids, prompt) for ids in alone])
    assert torch.equal(generate(model, batch, 1, cache=True), expect)
    assert torch.equal(generate(model, batch, 1, cache=False), expect)
    beams = generate(model, batch, 3, cache=True)
    assert torch.equal(generate(model, batch, 3, cache=False), beams)
    for row, ids in enumerate(alone):
        single = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert torch.equal(generate(model, single, 3, cache=True)[0], beams[row])
    assert not torch.equal(generate(plain, batch, 1, cache=True), expect)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_logits_of_each_word_stay_aligned(family: str) -> None:
    plain = lm(family)
    model = copy.deepcopy(plain)
    adapt(family, model, PromptTuning(P))
    prompt = shake(model)[0]
    ids = encoded(family, SENTENCES[:1])["input_ids"]
    with torch.no_grad():
        found = model(ids).logits
        expect = plain(inputs_embeds=by_hand(family, plain, ids, prompt)).logits[:, P:]
    torch.testing.assert_close(found, expect, **CLOSE)


def test_the_cache_is_found_whatever_its_name() -> None:
    cache = DynamicCache()
    for name in ("past_key_values", "cache", "a name of the future"):
        assert cache_in({"use_cache": True, name: cache}) is cache
    assert cache_in({"past_key_values": None}) is None


@pytest.mark.parametrize("family", ["bert", "t5", "xlnet"])
def test_an_input_that_the_prompt_does_not_know_is_rejected(family: str) -> None:
    model = classifier(family)
    adapt(family, model, PromptTuning(P))
    body = reader(model)
    ids = encoded(family, SENTENCES[:2])["input_ids"]
    with pytest.raises(AdaptError, match=r"called with soft_ids \[2, \d+\], which belongs to the"):
        body(ids, soft_ids=ids)
    with pytest.raises(AdaptError, match=r"attention_mask \[2, 1, \d+, \d+\]: must be \[B, T\]"):
        body(ids, attention_mask=torch.ones(2, 1, ids.shape[1], ids.shape[1]))


# ---- PEFT, where it is right: in front, nothing padded; half its vectors are dead on T5 ----


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "t5"])
def test_parity_with_peft(family: str) -> None:
    peft = pytest.importorskip("peft")
    plain = lm(family)
    kind = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    settings = peft.PromptTuningConfig(
        task_type=kind, num_virtual_tokens=P, num_transformer_submodules=1
    )
    theirs = peft.get_peft_model(copy.deepcopy(plain), settings).eval()
    adaptation = adapt(family, plain, PromptTuning(P))
    vectors = shake(plain)[0]
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(vectors)
    batch = {k: v for k, v in encoded(family, SENTENCES[:1]).items() if "type" not in k}
    extra = {"decoder_input_ids": batch["input_ids"]} if family == "t5" else {}
    mine, its = plain(**batch, **extra).logits, theirs(**batch, **extra).logits
    its = its[:, -mine.shape[1] :]
    torch.testing.assert_close(mine, its, **CLOSE)
    labels = batch["input_ids"][0]
    for logits in (mine, its):
        cross_entropy(logits[0], labels).backward()
    parameter = adaptation.trainable["prompt.vectors"]
    assert parameter.shape[0] == 1 and parameter.grad.abs().sum(-1).min() > 0  # none is dead
    expect = theirs.prompt_encoder["default"].embedding.weight.grad
    torch.testing.assert_close(parameter.grad[0], expect, **CLOSE)
    # PEFT 0.21 looks for the cache under the name that it had before transformers 5.24.
    expect = generate(theirs, batch, 1, cache=False)
    assert torch.equal(generate(plain, batch, 1, cache=True), expect)


# ---- how it starts ----


def rows_of(family: str, vectors: Tensor) -> list[int]:
    """Which words of the vocabulary the vectors are."""
    words = words_of(classifier(family))
    nearest = torch.cdist(vectors.detach(), words).argmin(-1)
    torch.testing.assert_close(words[nearest], vectors.detach())
    return nearest.tolist()


def start_of(family: str, method: PromptTuning, **options: Any) -> Tensor:
    model = classifier(family)
    adapt(family, model, method, **options)
    return model.prompt.vectors.detach()


def test_random_is_uniform_in_half_a_unit() -> None:
    start = start_of("bert", PromptTuning(100, init="random"))
    assert start.abs().max() <= 0.5 and abs(start.std().item() - 12**-0.5) < 0.02


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "albert"])
def test_vocabulary_draws_words_without_replacement(family: str) -> None:
    start = start_of(family, PromptTuning(40, prompts=2))
    special = set(tiny_tokenizer(family).all_special_ids)
    drawn = [rows_of(family, vectors) for vectors in start]
    assert drawn[0] != drawn[1]
    for ids in drawn:
        assert len(set(ids)) == 40 and not set(ids) & special
    again = start_of(family, PromptTuning(40, prompts=2), seed=1)
    assert rows_of(family, again[0]) != drawn[0]


def test_vocabulary_is_that_of_the_lowest_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptkit.methods.prompt.FREQUENT", 30)
    ids = rows_of("bert", start_of("bert", PromptTuning(30))[0])
    assert sorted(ids) == list(range(5, 35))  # five special tokens come first
    with pytest.raises(ConfigError, match=r"method.length=31: .* only 30 words"):
        start_of("bert", PromptTuning(31))


def test_labels_are_averaged_and_filled_up() -> None:
    labels = ("bad", "very_good", "qx")  # one word, two, and two pieces
    start = start_of("bert", PromptTuning(6, init="labels"), labels=labels)[0]
    words, tokenizer = words_of(classifier("bert")), tiny_tokenizer("bert")
    for row, text in enumerate(("bad", "very good", "qx")):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == min(row + 1, 2)
        torch.testing.assert_close(start[row], words[ids].mean(0))
    assert len(set(rows_of("bert", start[3:]))) == 3
    assert start_of("bert", PromptTuning(2, init="labels"), labels=labels).shape == (1, 2, 32)


@pytest.mark.parametrize("family", ["bert", "opt", "bart"])
def test_a_text_is_cut_or_repeated(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    ids = tokenizer("the good film", add_special_tokens=False)["input_ids"]
    assert 2 < len(ids) < 20
    long = rows_of(family, start_of(family, PromptTuning(20, init="the good film"))[0])
    assert long == (ids * 20)[:20]
    short = rows_of(family, start_of(family, PromptTuning(2, init="the good film"))[0])
    assert short == ids[:2]


def test_bart_starts_at_the_scaled_embeddings() -> None:
    model = lm("bart")
    adapt("bart", model, PromptTuning(1, init="good"))
    ids = tiny_tokenizer("bart")("good", add_special_tokens=False)["input_ids"]
    raw = model.get_input_embeddings().weight[ids[0]]
    torch.testing.assert_close(model.prompt.vectors[0, 0], raw * 32**0.5)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (PromptTuning(init="\u200b"), "method.init=.*: the tokenizer finds no token in it"),
        (PromptTuning(init="labels"), "method.init='labels': the task's labels have no names"),
        (PromptTuning(125), "reads 128 positions, of which 124 are left"),
        (PTuning(123, anchors="good film"), "=125: .* 124 are left"),
        (PTuning(anchors="\u200b"), "method.anchors"),
        (Chain((PromptTuning(2), PTuning(2))), "has a prompt already"),
        (Chain((LoRA(rank=2), PromptTuning(130))), "124 are left"),
    ],
)
def test_refused(method: Any, words: str) -> None:
    with pytest.raises(AdaptError, match=words) as info:
        adapt("bert", classifier("bert"), method, labels=("",))
    assert len(str(info.value)) < 300 and str(info.value).endswith(".")


def test_bad_options() -> None:
    for make in (lambda: PromptTuning(0), lambda: PromptTuning(prompts=0), lambda: PTuning(0)):
        with pytest.raises(ConfigError, match="must be 1 or more"):
            make()
    with pytest.raises(ConfigError, match=r"method\.init"):
        PromptTuning(init=" ")
    with pytest.raises(ConfigError, match="votes on classes, not on words"):
        adapt("gpt2", lm("gpt2"), PromptTuning(prompts=2))


def test_no_limit_where_positions_are_relative() -> None:
    for family in ("t5", "xlnet"):
        adapt(family, classifier(family), PromptTuning(300, init="random"))


def test_texts_are_cut_to_what_the_prompt_leaves(checkpoints: Any, tmp_path: Path) -> None:
    data = sentiment(tmp_path / "data", train=8, validation=4)
    for file in data.iterdir():
        file.write_text(file.read_text().replace('"sentence": "', '"sentence": "' + "film " * 200))
    changes = {"task.max_length": 128, "method.length": 20, "trainer.max_steps": 1}
    settings = configure(tmp_path / "run", checkpoints["bert"], data, "method=prompt", **changes)
    record, _ = carry_out(settings)  # an index out of range, were the texts any longer
    assert record["status"] == "done" and record["params"]["body_trainable"] == 20 * 32


# ---- several prompts ----


def test_an_ensemble_answers_with_every_prompt() -> None:
    model, family = with_padding_moved(classifier("roberta"), SEQUENCE), "roberta"
    adaptation = adapt(family, model, PromptTuning(P, prompts=3))
    vectors = shake(model)
    batch = encoded(family, SENTENCES)
    single = []
    for prompt in vectors:
        one = with_padding_moved(classifier(family), SEQUENCE)
        adapt(family, one, PromptTuning(P))
        one.prompt.vectors.data.copy_(prompt[None])
        single.append(one(**batch).logits)
    each = torch.stack(single, 1)  # [B, N, C]
    labels = torch.arange(len(SENTENCES)) % 2
    with torch.no_grad():
        ballots = model(**batch).logits
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    answers = model(**batch).logits
    torch.testing.assert_close(answers, each.flatten(0, 1), **CLOSE)
    form = adaptation.form(HeadForm(("text",), ("a", "b"), 16))
    batch = Batch({}, {"target": labels}, list(range(len(labels))), len(labels))
    together = form.loss(SequenceClassifierOutput(logits=answers), batch) / batch.weight
    mean = sum(cross_entropy(logits, labels) for logits in single) / 3
    torch.testing.assert_close(together, mean, **CLOSE)
    majority = each.argmax(-1).mode(1).values
    assert torch.equal(ballots.argmax(-1), majority)


def test_vote() -> None:
    logits = torch.tensor([
        [[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]],  # two against one
        [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]],  # a tie: the largest mean
    ])  # fmt: skip
    assert vote(logits).argmax(-1).tolist() == [1, 2]
    assert vote(torch.tensor([[[1.0], [4.0]]])).tolist() == [[2.5]]


def test_an_ensemble_runs_and_reloads(checkpoints: Any, tmp_path: Path) -> None:
    data = sentiment(tmp_path / "data")
    changes = {"method.prompts": 3, "method.length": 4, "optimizer.lr": 3e-2}
    settings = configure(tmp_path / "run", checkpoints["gpt2"], data, "method=prompt", **changes)
    record, _ = carry_out(settings)
    assert record["params"]["body_trainable"] == 3 * 4 * 32
    # The same from the saved file: one prompt after the other, without the ensemble's code.
    prepared = restored(load_run(tmp_path / "run"))
    model = prepared.adaptation.model.eval()
    splits = settings.task.load(settings.data, settings.seed, train=False)
    rows = feed_of(settings, prepared, splits.validation[""]).examples
    labels = torch.tensor(rows["target"][:])
    single = classifier_with_body_of(model)
    texts = [torch.tensor([row["input_ids"]]) for row in rows]
    prompts = model.prompt.vectors.detach()
    answers = torch.stack([torch.cat([single(p, text) for text in texts]) for p in prompts], 1)
    right = answers.argmax(-1) == labels[:, None]
    scores = record["scores"]
    assert scores["accuracy"] == pytest.approx((right.sum(1) >= 2).float().mean().item())
    assert scores["accuracy_single"] == pytest.approx(right.float().mean().item())
    of_mean = (answers.mean(1).argmax(-1) == labels).float().mean().item()
    assert scores["accuracy_mean_logits"] == pytest.approx(of_mean)
    loss = cross_entropy(answers.flatten(0, 1), labels.repeat_interleave(3))
    assert scores["loss"] == pytest.approx(loss.item(), 1e-4)


def classifier_with_body_of(model: nn.Module) -> Any:
    """A function from one prompt [P, d] and a text to logits, by plain input embeddings."""
    body = copy.deepcopy(model)
    body._forward_pre_hooks.clear()  # those of the ensemble
    body._forward_hooks.clear()
    body.transformer._forward_pre_hooks.clear()  # those of the prompt
    body.transformer._forward_hooks.clear()

    def answer(vectors: Tensor, ids: Tensor) -> Tensor:
        embeds = torch.cat([vectors[None], body.transformer.wte(ids)], 1)
        with torch.no_grad():
            return body.score(body.transformer(inputs_embeds=embeds)[0][:, -1])

    return answer


# ---- P-tuning ----


def lstm_by_hand(x: Tensor, module: nn.LSTM, layer: int, suffix: str) -> Tensor:
    """One direction of one layer over x [T, in], step by step."""
    named = dict(module.named_parameters())
    w, r, b, c = (named[f"{n}_l{layer}{suffix}"] for n in ("weight_ih", "weight_hh", "bias_ih",
                                                          "bias_hh"))  # fmt: skip
    state = memory = torch.zeros(module.hidden_size)
    outputs = []
    for step in x if not suffix else x.flip(0):
        i, f, g, o = (w @ step + b + r @ state + c).chunk(4)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        state = o.sigmoid() * memory.tanh()
        outputs.append(state)
    made = torch.stack(outputs)
    return made if not suffix else made.flip(0)


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_encoder_is_its_formula(recurrent: bool) -> None:
    encoder = PromptEncoder(7, 12, recurrent, torch.Generator().manual_seed(0))
    x = encoder.embedding
    for layer in range(2 if recurrent else 0):
        x = torch.cat([lstm_by_hand(x, encoder.lstm, layer, s) for s in ("", "_reverse")], 1)
    first, last = encoder.mlp[0], encoder.mlp[2]
    expect = (x @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(encoder(), expect[None], **CLOSE)


@pytest.mark.parametrize("family", ["bert", "electra", "gpt2", "xlnet", "t5", "bart"])
def test_finish_keeps_the_vectors_and_drops_the_encoder(family: str) -> None:
    plain = classifier(family)
    model = copy.deepcopy(plain)
    adaptation = adapt(family, model, PTuning(P, anchors="good film"))
    batch = encoded(family, SENTENCES[:1])
    with torch.no_grad():
        before = model(**batch).logits
        (finish,) = adaptation.finish
        finish()
        assert torch.equal(model(**batch).logits, before)
    vectors = adaptation.delta()["prompt.delta_vectors"][0]
    assert not any(name.startswith("prompt.") for name, _ in model.named_parameters())
    assert set(adaptation.delta()) == {"prompt.delta_vectors", *adaptation.head}
    ids = tiny_tokenizer(family)("good film", add_special_tokens=False)["input_ids"]
    prompt = torch.cat([vectors[:3], words_of(plain)[ids], vectors[3:]])  # anchors in the middle
    torch.testing.assert_close(before, class_logits(family, plain, batch, prompt), **CLOSE)
    assert adaptation.extra_tokens == P + len(ids)


def test_the_body_may_learn_slowly() -> None:
    model = classifier("bert")
    adaptation = adapt("bert", model, PTuning(P, tune_body=True))
    assert set(adaptation.trainable) == {name for name, _ in model.named_parameters()}
    factors = {n: adaptation.factor(n) for n in adaptation.trainable}
    assert {f for n, f in factors.items() if n.startswith("bert.")} == {0.1}
    assert {f for n, f in factors.items() if not n.startswith("bert.")} == {1.0}


def test_ptuning_resumes_and_reloads(checkpoints: Any, tmp_path: Path) -> None:
    data = sentiment(tmp_path / "data")
    settings = configure(tmp_path / "run", checkpoints["bert"], data, "method=ptuning")
    record, _ = carry_out(settings)  # proves that the saved vectors give the same logits
    assert record["params"]["stored"] == 9 * 32 + record["params"]["head_trainable"]
    assert record["params"]["body_trainable"] == 9 * 32 + 14 * 32**2 + 18 * 32


# ---- counts, from the papers and the authors' code ----


@cache
def counted(*overrides: str) -> Any:
    run = config.settings(compose.compose(["task=sst2", *overrides]))
    return plan.plan(run, "fp32", memory=False).params


@pytest.mark.parametrize(
    ("model", "length", "count"),
    [
        ("t5-small", 100, 51_200), ("t5-base", 100, 76_800), ("t5-small", 20, 10_240),
        ("bert-base", 20, 15_360), ("roberta-base", 20, 15_360), ("gpt2", 20, 15_360),
        ("t5-base", 20, 15_360), ("bert-large", 20, 20_480), ("roberta-large", 20, 20_480),
        ("electra-small", 20, 2_560), ("albert-base", 20, 2_560),
    ],
)  # fmt: skip
def test_count_of_prompt_tuning(model: str, length: int, count: int) -> None:
    found = counted(f"model={model}", "method=prompt", f"method.length={length}")
    assert found.body_trainable == found.stored - found.head_trainable == count


@pytest.mark.parametrize(
    ("model", "length", "count"),
    [
        ("bert-base", 9, 8_278_272), ("bert-base", 6, 8_275_968), ("gpt2", 6, 8_275_968),
        ("bert-large", 9, 14_707_712), ("bert-large", 6, 14_704_640),
        ("gpt2-medium", 6, 14_704_640),
    ],
)  # fmt: skip
def test_count_of_ptuning(model: str, length: int, count: int) -> None:
    found = counted(f"model={model}", "method=ptuning", f"method.length={length}")
    assert found.body_trainable == count
    width = 1024 if model in ("bert-large", "gpt2-medium") else 768
    assert found.stored - found.head_trainable == length * width


def test_plan_refuses_a_prompt_that_is_too_long() -> None:
    with pytest.raises(AdaptError, match="508 are left"):
        counted("model=bert-base", "method=prompt", "method.length=510")


def test_an_ensemble_needs_answers_that_can_be_voted_on() -> None:
    """A form that thresholds its logits would read the votes of `vote` as answers."""

    class Thresholds(HeadForm):
        votes = False

    with pytest.raises(ConfigError, match=r"method\.prompts=3: the answers .* cannot be voted on"):
        Ensemble(Thresholds(("text",), ("a", "b"), 16), 3)
