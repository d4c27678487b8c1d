"""What the package brings along: whole, small, really pretrained; and what is said when damaged."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commandline import call
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from adaptkit.errors import AdaptError
from adaptkit.storage import bundled

MINIS = {
    "mini-bert": AutoModelForMaskedLM,
    "mini-gpt2": AutoModelForCausalLM,
    "mini-t5": AutoModelForSeq2SeqLM,
}
PROSE = (
    "the king sent his men to the river before the night came.",
    "she had been a teacher in a small school for many years.",
    "the war between the two countries began in the spring of that year.",
    "he looked at the old house and did not know what to say.",
    "most of the people in the town work in the two large factories.",
    "water is made of two gases and can be found in every living thing.",
)


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md")


def test_the_sums_are_those_of_the_files_and_of_all_files() -> None:
    files = [*files_below(bundled.SAMPLES), *files_below(bundled.MINIS)]
    assert {f.relative_to(bundled.PACKAGE).as_posix() for f in files} == set(bundled.sums())
    for file in files:
        name = file.relative_to(bundled.PACKAGE).as_posix()
        assert hashlib.sha256(file.read_bytes()).hexdigest() == bundled.sums()[name]


def test_it_is_small() -> None:
    assert sum(f.stat().st_size for f in files_below(bundled.SAMPLES)) < 3.25e6
    for name in MINIS:
        assert (bundled.MINIS / name / "model.safetensors").stat().st_size < 8e6


@pytest.mark.parametrize("name", MINIS)
def test_a_mini_is_an_ordinary_checkpoint(name: str) -> None:
    folder = bundled.model(f"adaptkit:{name}")
    model, info = MINIS[name].from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert 3e6 < model.num_parameters() < 6e6
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    text = "The Quick brown fox, isn't it?"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == (
        text.lower().replace(" ", "")
    )


def test_minis_read_pairs_as_their_families_do() -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled.MINIS / "mini-bert")
    pair = tokenizer("one", "two")
    names = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    assert names == ["[CLS]", "one", "[SEP]", "two", "[SEP]"]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    t5 = AutoTokenizer.from_pretrained(bundled.MINIS / "mini-t5")
    ids = t5("one <extra_id_0> two")["input_ids"]
    assert t5.convert_tokens_to_ids("<extra_id_0>") in ids and ids[-1] == t5.eos_token_id


@torch.no_grad()
def surprise(name: str, texts: list[list[str]]) -> float:
    """Mean loss per token: of every word guessed from the others, or from those before it."""
    folder = bundled.MINIS / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = MINIS[name].from_pretrained(folder).eval()
    losses = []
    for words in texts:
        ids = tokenizer(" ".join(words), return_tensors="pt")["input_ids"]
        if name == "mini-gpt2":
            losses.append(model(ids, labels=ids).loss)
        elif name == "mini-bert":
            inner = torch.arange(1, ids.shape[1] - 1)
            masked = ids.repeat(len(inner), 1)
            masked[torch.arange(len(inner)), inner] = tokenizer.mask_token_id
            logits = model(masked).logits[torch.arange(len(inner)), inner]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, inner]))
        else:  # the middle third is the hidden span
            third = ids.shape[1] // 3
            first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
            mark, end = torch.tensor([[first]]), ids[:, -1:]
            source = torch.cat([ids[:, :third], mark, ids[:, 2 * third :]], 1)
            target = torch.cat([mark, ids[:, third : 2 * third], end], 1)
            losses.append(model(input_ids=source, labels=target).loss)
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("name", MINIS)
def test_minis_know_english_word_order(name: str) -> None:
    """Words in their order surprise less than the same words shuffled: no table of counts can."""
    generator = torch.Generator().manual_seed(0)
    ordered = [text.split() for text in PROSE]
    shuffled = [
        [words[i] for i in torch.randperm(len(words), generator=generator)] for words in ordered
    ]
    assert surprise(name, ordered) < surprise(name, shuffled) - 0.3


# ---- damaged installations ----


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the bundled files that may be damaged."""
    for name in bundled.sums():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundled.PACKAGE / name, tmp_path / name)
    shutil.copyfile(bundled.SUMS, tmp_path / "bundled.json")
    for constant in ("SAMPLES", "MINIS", "SUMS"):
        place = getattr(bundled, constant).relative_to(bundled.PACKAGE)
        monkeypatch.setattr(bundled, constant, tmp_path / place)
    monkeypatch.setattr(bundled, "PACKAGE", tmp_path)
    bundled.check.cache_clear()
    bundled.sums.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    bundled.check.cache_clear()
    bundled.sums.cache_clear()


@pytest.mark.parametrize(
    "name", ["models/mini/mini-bert/model.safetensors", "samples/sst2/train.jsonl"]
)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_damaged_file_is_named(
    name: str, damage: str, installation: Path, tmp_path: Path
) -> None:
    file = installation / name
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    output = tmp_path / "run"
    answer = call("train", "task=sst2", "data.source=sample", f"output_dir={output}")
    assert answer.status == 2
    assert str(file) in answer.err and damage in answer.err
    assert "pip install --force-reinstall --no-deps adaptkit" in answer.err
    assert not output.exists()


def test_missing_sums_are_named(installation: Path) -> None:
    (installation / "bundled.json").write_text("{")
    with pytest.raises(AdaptError, match=r"bundled.json is missing or damaged.*force-reinstall"):
        bundled.model("adaptkit:mini-bert")


def test_what_is_not_bundled_is_refused(tmp_path: Path) -> None:
    answer = call(
        "train", "model=auto", "model.path=adaptkit:mini-bart", f"output_dir={tmp_path}/r"
    )
    assert answer.status == 2
    assert "mini-bart" in answer.err and "mini-bert, mini-gpt2, mini-t5" in answer.err


def test_the_plan_counts_the_pooler_that_the_checkpoint_lacks() -> None:
    answer = call("plan", "method=lora", "model=mini-bert", "task=sst2", "--json")
    assert answer.status == 0
    width = json.loads((bundled.MINIS / "mini-bert" / "config.json").read_text())["hidden_size"]
    assert json.loads(answer.out)["head_trainable"] == width * width + width + 2 * width + 2
