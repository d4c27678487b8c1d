"""What a checkpoint holds: whose head it is, what it may lack, and that a plan sees the same."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import (
    EACH_FAMILY,
    FAMILIES,
    RARE,
    SENTENCES,
    _build,
    add_padding,
    tiny_config,
    tiny_tokenizer,
)
from runs import carry_out, configure, outcome, sentiment
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from adaptkit.errors import AdaptError
from adaptkit.models import loading
from adaptkit.models.body import words_of
from adaptkit.models.empty import empty_model, gaps
from adaptkit.models.heads import HEADS, outputs_by_name
from adaptkit.models.model import Model
from adaptkit.models.weights import ties
from adaptkit.runs.exchange.export import export

NAMES = ("negative", "neutral", "positive")
LANGUAGE = [name for name, head in HEADS.items() if not head.new]


def exists(family: str, head: str) -> bool:
    return type(tiny_config(family)) in getattr(transformers, HEADS[head].auto)._model_mapping


PAIRS = [(family, head) for family in FAMILIES for head in HEADS if exists(family, head)]


def each(pairs: list[tuple[str, str]]) -> Any:
    """Parametrize over families and heads, the rare families being slow."""
    marked = [pytest.param(f, h, marks=[pytest.mark.slow] * (f in RARE)) for f, h in pairs]
    return pytest.mark.parametrize(("family", "head"), marked)


def saved(folder: Path, family: str, head: str, names: Any = None, **changes: Any) -> Path:
    """Save a model of a family with a head; `names`: those of its classes."""
    config = tiny_config(family)
    if names:
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
    for key, value in changes.items():
        setattr(config, key, value)
    auto = getattr(transformers, HEADS[head].auto)
    _build(auto.from_config, config, 0).save_pretrained(folder)
    return folder


def load(folder: Path, head: str, labels: tuple[str, ...] = ()) -> loading.Loaded:
    model = Model(folder.name, str(folder))
    outputs = len(labels) or (1 if head == "sequence" else 2) if HEADS[head].new else None
    config = loading.load_config(model, head, outputs)
    return loading.load_model(model, config, head, labels)


def planned(folder: Path, head: str) -> loading.Loaded:
    model = Model(folder.name, str(folder))
    config = loading.load_config(model, head, 2 if HEADS[head].new else None, offline=True)
    found = gaps(model, config, head)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return empty_model(model, config, head, found)


def edited(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Change the weights of a folder."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return folder


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


# ---- a plan sees what training will see ----


@pytest.mark.sampled
@each(PAIRS)
def test_a_plan_counts_what_is_loaded(family, head, checkpoints):
    """Tied tables once; what the pretrained checkpoint lacks is new in both."""
    try:
        real = load(checkpoints[family], head, ("a", "b") if HEADS[head].classes else ())
    except AdaptError as refusal:  # transformers' LLaMA for spans has a body of another name
        assert head == "span" or family == "electra"  # a discriminator has no masked-word head
        with pytest.raises(AdaptError, match=re.escape(str(refusal))):
            planned(checkpoints[family], head)
        return
    empty = planned(checkpoints[family], head)
    assert empty.head == real.head
    assert shapes(empty.model) == shapes(real.model)


def test_an_output_map_of_its_own_is_counted(tmp_path):
    """T5 v1.1: the file holds a map that differs from the words, whatever T5Config says."""
    saved(tmp_path, "t5", "seq2seq")
    edited(tmp_path, lambda w: {**w, "lm_head.weight": w["shared.weight"] * 2})
    real, empty = load(tmp_path, "seq2seq"), planned(tmp_path, "seq2seq")
    assert "lm_head.weight" in shapes(real.model)
    assert shapes(empty.model) == shapes(real.model)
    edited(tmp_path, lambda w: {**w, "lm_head.weight": w["shared.weight"].clone()})
    assert shapes(planned(tmp_path, "seq2seq").model) == shapes(load(tmp_path, "seq2seq").model)
    assert "lm_head.weight" not in shapes(planned(tmp_path, "seq2seq").model)


def test_a_pooler_that_the_checkpoint_lacks_is_new(checkpoints, tmp_path):
    body = Path(shutil.copytree(checkpoints["bert"], tmp_path / "body"))
    edited(body, lambda w: {n: t for n, t in w.items() if "pooler" not in n})
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    for found in (load(body, "sequence", ("a", "b")), planned(body, "sequence")):
        assert found.head == pooler | {"classifier.weight", "classifier.bias"}


# ---- nothing else is drawn at random ----


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda w: {n: t for n, t in w.items() if n not in names}


@pytest.mark.sampled
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_missing_tensor_of_the_body_is_named(family, checkpoints, tmp_path):
    """One of the embeddings, one inside, the last one: by training and by a plan."""
    whole = load(checkpoints[family], "sequence", ("a", "b"))
    prefix = loading.base_prefix(whole.model)
    body = [n for n in shapes(whole.model) if n.startswith(prefix) and ".pooler." not in n]
    for name in (body[0], body[len(body) // 2], body[-1]):
        folder = Path(shutil.copytree(checkpoints[family], tmp_path / name))
        edited(folder, without(name, name.removeprefix(prefix)))
        for look in (lambda f: load(f, "sequence", ("a", "b")), lambda f: planned(f, "sequence")):
            with pytest.raises(AdaptError, match=r"weights lack .*would be drawn") as refusal:
                look(folder)
            assert f"lack {name}, which" in str(refusal.value)


@pytest.mark.parametrize(
    ("family", "count"),
    [("bert", "num_hidden_layers"), ("gpt2", "n_layer"), ("t5", "num_layers"),
     ("bart", "decoder_layers"), ("llama", "num_hidden_layers")],
)  # fmt: skip
def test_layers_that_config_leaves_out(family, count, checkpoints, tmp_path):
    """Half a model would train without a word."""
    folder = tmp_path / family
    shutil.copytree(checkpoints[family], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, count: 1}))
    for look in (lambda f: load(f, "sequence", ("a", "b")), lambda f: planned(f, "sequence")):
        with pytest.raises(AdaptError, match=r"which config\.json leaves out"):
            look(folder)


def test_biases_that_config_leaves_out(tmp_path):
    """Without them the model would be another one."""
    config = tiny_config("llama")
    config.attention_bias = config.mlp_bias = True
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    load(tmp_path, "sequence", ("a", "b"))
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**plain, "mlp_bias": False}))
    for look in (lambda f: load(f, "sequence", ("a", "b")), lambda f: planned(f, "sequence")):
        with pytest.raises(
            AdaptError, match=r"hold model\.layers\.0\.mlp\.\w+\.bias, which config"
        ):
            look(tmp_path)


def test_a_missing_layer_is_counted(checkpoints, tmp_path):
    folder = Path(shutil.copytree(checkpoints["bert"], tmp_path / "body"))
    edited(folder, lambda w: {n: t for n, t in w.items() if ".layer.2." not in n})
    with pytest.raises(AdaptError, match=r"encoder\.layer\.2\.\S+ and 15 more of 55 tensors"):
        load(folder, "sequence", ("a", "b"))


# DeBERTa-v3 has no output map at all.
TIED = [(f, h) for f, h in PAIRS if h in LANGUAGE and ties(tiny_config(f)) and f != "deberta-v2"]


@pytest.mark.sampled
@each(TIED)
@pytest.mark.parametrize("task", ["sequence", "same"])
def test_a_tied_twin_is_taken(family, head, task, tmp_path):
    """A file that holds the output map only: it is the table of words."""
    saved(tmp_path / "whole", family, head)
    auto = getattr(transformers, HEADS[head].auto)
    model = auto.from_pretrained(tmp_path / "whole")
    table = words_of(model).weight.detach().clone()
    (target,) = [
        name for name, source in model.all_tied_weights_keys.items()
        if name.endswith("weight") and model.get_parameter(source) is words_of(model).weight
        and "embed_tokens" not in name
    ]  # fmt: skip
    folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "twin"))

    def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {n: t for n, t in weights.items() if not torch.equal(t, table)}
        assert len(kept) < len(weights)
        return {**kept, target: table}

    edited(folder, renamed)
    if task == "sequence" and (family, head) == ("bart", "lm"):
        pytest.skip("a decoder alone has no encoder")
    wanted, labels = (head, ()) if task == "same" else ("sequence", ("a", "b"))
    loaded = load(folder, wanted, labels)
    assert torch.equal(words_of(loaded.model).weight, table)
    assert loaded.head == load(tmp_path / "whole", wanted, labels).head
    assert planned(folder, wanted).head == loaded.head


def test_an_output_map_that_is_not_tied_is_not_a_twin(checkpoints, tmp_path):
    folder = Path(shutil.copytree(checkpoints["llama"], tmp_path / "body"))
    edited(folder, without("model.embed_tokens.weight"))
    with pytest.raises(AdaptError, match=r"lack model\.embed_tokens\.weight"):
        load(folder, "sequence", ("a", "b"))


# ---- the head of a checkpoint ----


@torch.no_grad()
def logits(loaded: loading.Loaded, family: str) -> Tensor:
    tokenizer = tiny_tokenizer(family)
    add_padding(tokenizer, loaded.model.config)
    batch = tokenizer(SENTENCES[:3], padding=True, return_tensors="pt")
    return loaded.model.eval()(**batch).logits


CLASSIFIERS = [(family, head) for family, head in PAIRS if HEADS[head].new and HEADS[head].classes]


@pytest.mark.sampled
@each(CLASSIFIERS)
def test_outputs_follow_the_names_of_the_classes(family, head, tmp_path):
    saved(tmp_path, family, head, NAMES)
    kept = load(tmp_path, head, NAMES)
    auto = getattr(transformers, HEADS[head].auto).from_pretrained(tmp_path)
    own = dict(auto.named_parameters())
    assert kept.begins == "kept"
    assert all(torch.equal(p, own[name]) for name, p in kept.model.named_parameters())
    order = [2, 0, 1]
    turned = load(tmp_path, head, tuple(NAMES[i].upper() for i in order))
    assert turned.begins == "reordered"
    assert torch.equal(logits(turned, family), logits(kept, family)[..., order])
    other = load(tmp_path, head, ("negative", "mixed", "positive"))
    assert other.begins == "replaced"
    changed = {
        n for n, p in other.model.named_parameters() if not torch.equal(p, own[n])
    }  # layers before the output map are kept
    assert changed and all(len(own[n]) == len(NAMES) for n in changed)
    assert other.head == kept.head == turned.head


NAMELESS = {
    "default": ({0: "LABEL_0", 1: "LABEL_1"}, ("LABEL_0", "LABEL_1")),
    "numbers": ({0: "0", 1: "1"}, ("0", "1")),
    "default and names": ({0: "LABEL_0", 1: "LABEL_1"}, ("no", "yes")),
    "others": ({0: "no", 1: "yes"}, ("negative", "positive")),
    "one is another": ({0: "no", 1: "yes"}, ("no", "maybe")),
    "more": ({0: "no", 1: "yes", 2: "maybe"}, ("no", "yes")),
    "twice": ({0: "no", 1: "No"}, ("no", "No")),
    "a number": ({0: "LABEL_0"}, ()),
    "none": (None, ("no", "yes")),
    "null": ({0: None, 1: None}, ("no", "yes")),
}


@pytest.mark.parametrize(("names", "labels"), NAMELESS.values(), ids=NAMELESS)
def test_names_that_say_nothing(names, labels):
    assert outputs_by_name(names, labels) is None


@pytest.mark.parametrize("numbers", [(5, 7), (7, 5), (-1, 0), (1, 2)])
def test_numbers_of_no_outputs(numbers):
    names = dict(zip(map(str, numbers), ("neg", "pos"), strict=True))
    assert outputs_by_name(names, ("neg", "pos")) is None


def test_names_as_json_holds_them():
    assert outputs_by_name({"0": "yes", "1": "no"}, ("no", "Yes")) == [1, 0]


def test_a_regression_head_has_no_name(tmp_path):
    """One output by chance, or of another scale: it is drawn anew."""
    saved(tmp_path, "bert", "sequence", num_labels=1)
    loaded = load(tmp_path, "sequence")
    assert loaded.begins == "replaced"
    stored = load_file(tmp_path / "model.safetensors")
    assert not torch.equal(loaded.model.get_parameter("classifier.weight"),
                           stored["classifier.weight"])  # fmt: skip


def test_a_span_head_means_the_same_in_every_task(tmp_path):
    saved(tmp_path, "bert", "span")
    loaded = load(tmp_path, "span")
    assert loaded.begins == "kept"
    assert torch.equal(loaded.model.qa_outputs.weight,
                       load_file(tmp_path / "model.safetensors")["qa_outputs.weight"])  # fmt: skip


def test_a_pretrained_layer_of_the_head_stays(checkpoints):
    """ModernBERT's head has a layer that is trained along with the body."""
    loaded = load(checkpoints["modernbert"], "sequence", ("a", "b"))
    stored = load_file(checkpoints["modernbert"] / "model.safetensors")
    assert loaded.begins == "new"
    assert torch.equal(loaded.model.head.dense.weight, stored["head.dense.weight"])


def test_a_merged_run_goes_on_with_its_classes_turned(checkpoints, tmp_path):
    """The classes of the first run, in the other order: the scores are those of its head."""
    data = sentiment(tmp_path / "data")
    made = configure(
        tmp_path / "one", checkpoints["bert"], data, "method=full", **{"trainer.max_steps": 4}
    )
    first, _ = carry_out(made)
    assert first["head"] == "new"
    export(tmp_path / "one", "merged", tmp_path / "plain")
    turned = sentiment(tmp_path / "turned")
    for file in turned.iterdir():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        lines = [{**line, "label": 1 - line["label"]} for line in lines]
        file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    for rows, classes, head in (
        (data, ["negative", "positive"], "kept"),
        (turned, ["positive", "negative"], "reordered"),
    ):
        changes = {"task.labels": classes, "trainer.max_steps": 0}
        directory = tmp_path / head
        record, _ = carry_out(configure(directory, tmp_path / "plain", rows, **changes))
        assert record["head"] == head
        assert record["scores"]["accuracy"] == first["scores"]["accuracy"]
        assert record["scores"]["loss"] == pytest.approx(first["scores"]["loss"], rel=1e-4)
        assert "head is kept" in (directory / "train.log").read_text()


# ---- what else a folder may say ----


def test_outputs_that_config_asks_for_change_nothing(checkpoints, tmp_path):
    """All attention, all hidden states, tuples, pieces of the feed-forward part."""
    data = sentiment(tmp_path / "data", 16, 8)
    asking = Path(shutil.copytree(checkpoints["bert"], tmp_path / "asking"))
    plain = json.loads((asking / "config.json").read_text())
    more = dict.fromkeys(("output_attentions", "output_hidden_states"), True)
    more |= {"return_dict": False, "chunk_size_feed_forward": 7}
    (asking / "config.json").write_text(json.dumps(plain | more))
    found = []
    for name, body in (("one", checkpoints["bert"]), ("two", asking)):
        changes = {"trainer.max_steps": 2, "model.name": "bert"}
        carry_out(configure(tmp_path / name, body, data, "method=lora", **changes))
        found.append(outcome(tmp_path / name))
    for kind in ("delta", "predictions", "history"):
        assert found[0][kind] == found[1][kind]


def mixed(folder: Path, body: str, tokens: str, **changes: Any) -> tuple[Model, Any]:
    """A body with the tokenizer of another family."""
    saved(folder, body, "mlm", vocab_size=len(tiny_tokenizer(tokens)), **changes)
    tiny_tokenizer(tokens).save_pretrained(folder)
    model = Model("mixed", str(folder))
    return model, loading.load_config(model, "sequence", 2)


def test_token_types_that_the_body_does_not_have(tmp_path):
    """RoBERTa has one type for all tokens; BERT's tokenizer gives the second text another one."""
    model, config = mixed(tmp_path, "roberta", "bert", pad_token_id=0)
    tokenizer = loading.load_tokenizer(model, config)
    pair = tokenizer("the film", "a plot", return_tensors="pt")
    assert set(pair) == {"input_ids", "attention_mask"}
    loaded = loading.load_model(model, config, "sequence", ("a", "b"))
    assert loaded.model(**pair).logits.isfinite().all()


def test_padding_by_which_the_body_numbers_its_positions(tmp_path):
    model, config = mixed(tmp_path, "roberta", "bert", pad_token_id=1)
    with pytest.raises(AdaptError, match=r"pads with token 0, the model with 1, .*own tokenizer"):
        loading.load_tokenizer(model, config)


def test_a_type_per_text_stays(checkpoints):
    model = Model("bert", str(checkpoints["bert"]))
    config = loading.load_config(model, "sequence", 2)
    assert loading.load_tokenizer(model, config)("a", "b")["token_type_ids"][-1] == 1
