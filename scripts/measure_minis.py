"""What the bundled models are worth: the figures of adaptkit/models/mini/README.md.

    python scripts/measure_minis.py sst2 --data DIR [--models NAME:SEEDS ...] [--settings ...]
    python scripts/measure_minis.py language --data FILE:COLUMN ... --heldout FILE:COLUMN
    python scripts/measure_minis.py text --data DIR
    python scripts/measure_minis.py words --data DIR

`sst2` fine-tunes, adapts with LoRA and probes each model on 20,000 rows of SST-2 (DIR/sst2) through
`adaptkit train`, and the same architecture with random weights as the control: a score alone says
nothing about pretraining. `language` compares mini-gpt2 with a trigram model (interpolated
Kneser-Ney) and mini-t5 with word frequencies, on held-out text. `text` trains mini-t5 to answer
SST-2 in words ("positive", "negative"). `words` is a linear model of words and pairs of words.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from adaptkit.storage import bundled

ROWS, EPOCHS = 20_000, 3
SETTINGS = {
    "full": ("method=full", "optimizer.lr=5e-4", f"trainer.epochs={EPOCHS}"),
    "full-mean": (
        "method=full",
        "optimizer.lr=5e-4",
        f"trainer.epochs={EPOCHS}",
        "model.pooling=mean",
    ),
    "lora": ("method=lora", "method.roles=[all]", "optimizer.lr=2e-3", f"trainer.epochs={EPOCHS}"),
    "probe": ("method=probe", "method.pooling=mean"),
}


def save_random(name: str, folder: Path, seed: int) -> None:
    """Save the architecture and tokenizer of a mini with weights as they are before pretraining."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    source = bundled.MINIS / name
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(source)
    # The same class: a body of another one would bring a pooler, which is then no part of the head.
    getattr(transformers, config.architectures[0])(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def accuracy(model: list[str], setting: str, seed: int, args: argparse.Namespace) -> float:
    """Train once by the command line and return the validation accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "adaptkit", "train", "task=sst2", *model, *SETTINGS[setting],
            f"seed={seed}", f"data.root={args.data}", f"data.train_rows={ROWS}",
            "trainer.keep=best", "trainer.select_on=validation", f"output_dir={folder}/run",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return json.loads(Path(folder, "run", "result.json").read_text())["score"]


def sst2(args: argparse.Namespace) -> None:
    """Print a row for each model and setting: accuracies pretrained and from random weights."""
    for entry in args.models:
        name, _, seeds = entry.partition(":")
        for setting in args.settings:
            scores: dict[str, list[float]] = {"pretrained": [], "random": []}
            for seed in range(int(seeds or 1)):
                with tempfile.TemporaryDirectory() as folder:
                    save_random(name, Path(folder), seed)
                    control = ["model=auto", f"model.path={folder}"]
                    scores["pretrained"].append(accuracy([f"model={name}"], setting, seed, args))
                    scores["random"].append(accuracy(control, setting, seed, args))
            shown = {
                kind: f"{statistics.mean(v):.3f} ({', '.join(f'{x:.3f}' for x in v)})"
                for kind, v in scores.items()
            }
            print(f"| {name} | {setting} | {shown['pretrained']} | {shown['random']} |", flush=True)


def words(args: argparse.Namespace) -> None:
    """Print the accuracy of logistic regression on tf-idf of words and pairs of words."""
    from datasets import load_dataset
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from adaptkit.tasks.reading.source import subset

    files = {s: str(args.data / "sst2" / f"{s}.parquet") for s in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    train = subset(rows["train"], ROWS, 0, rows["train"]["label"][:])
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(vectors.fit_transform(train["sentence"][:]), train["label"][:])
    tested = vectors.transform(rows["validation"]["sentence"][:])
    print(f"tf-idf: {model.score(tested, rows['validation']['label'][:]):.3f}")


# ---------------------------------------------------------------------------------- language


class Trigrams:
    """Interpolated Kneser-Ney with one discount: the strongest simple model of counts."""

    def __init__(self, line: np.ndarray, size: int, discount: float = 0.75) -> None:
        self.size, self.discount = size, discount
        line = line.astype(np.int64)
        triples, self.count3 = np.unique(
            (line[:-2] * size + line[1:-1]) * size + line[2:], return_counts=True
        )
        self.triples = triples
        # Below the top, a word counts by how many different words it follows.
        self.pairs, self.count2 = np.unique(triples % (size * size), return_counts=True)
        self.count1 = np.bincount(self.pairs % size, minlength=size)
        self.context3 = self._contexts(self.triples // size, self.count3)
        self.context2 = self._contexts(self.pairs // size, self.count2)

    @staticmethod
    def _contexts(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
        context, first = np.unique(keys, return_index=True)
        total = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(keys)))
        return context, total, kinds

    @staticmethod
    def _find(table: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        place = np.searchsorted(table, keys).clip(max=len(table) - 1)
        return np.where(table[place] == keys, values[place], 0)

    def _level(
        self, keys: np.ndarray, table: np.ndarray, counts: np.ndarray,
        contexts: tuple[np.ndarray, ...], lower: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        own = keys // self.size
        total = self._find(contexts[0], contexts[1], own)
        kinds = self._find(contexts[0], contexts[2], own)
        count = self._find(table, counts, keys)
        known = np.maximum(total, 1)
        share = np.maximum(count - self.discount, 0) / known + self.discount * kinds / known * lower
        return np.where(total > 0, share, lower)

    def loss(self, line: np.ndarray) -> float:
        """Return the mean negative log-likelihood of tokens from the third on."""
        line, size = line.astype(np.int64), self.size
        one = (self.count1[line[2:]] + 1) / (self.count1.sum() + size)
        pair = line[1:-1] * size + line[2:]
        two = self._level(pair, self.pairs, self.count2, self.context2, one)
        triple = line[:-2] * size * size + pair
        three = self._level(triple, self.triples, self.count3, self.context3, two)
        return float(-np.log(three).mean())


def language(args: argparse.Namespace) -> None:
    """Compare mini-gpt2 and mini-t5 with models of counts on held-out text."""
    import torch
    from pretraining.objectives import Collator
    from pretraining.recipes import RECIPES
    from pretraining.texts import sources
    from pretraining.tokens import Blocks, tokenise
    from pretraining.vocabularies import SENTINELS
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    documents = [d for s in sources(args.data) for d in s.documents()]
    heldout = [d for s in sources(args.heldout) for d in s.documents()]
    for name in ("mini-gpt2", "mini-t5"):
        folder, recipe = bundled.MINIS / name, RECIPES[name]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        train, test = (tokenise(recipe, tokenizer, d) for d in (documents, heldout))
        size = len(tokenizer)
        blocks = torch.from_numpy(Blocks(test, 128).blocks.astype(np.int64))
        if name == "mini-gpt2":
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            with torch.no_grad():
                losses = [model(part, labels=part).loss.item() for part in blocks.split(32)]
            counts = Trigrams(train, size).loss(blocks.numpy().reshape(-1))
            ours = statistics.mean(losses)  # the first tokens of a block have no context: harder
            print(f"mini-gpt2 {math.exp(ours):.1f}, trigrams {math.exp(counts):.1f} (perplexity)")
            show_continuations(model, tokenizer)
            continue
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        collator = Collator(recipe.batch, tokenizer, 128, 0.0, recipe.rate, 0)
        share = np.bincount(train, minlength=size) + 1.0
        rare = torch.from_numpy(-np.log(share / share.sum()))
        words, own, other = 0, 0.0, 0.0
        for part in blocks[:2000].split(32):
            batch = collator(list(part))
            with torch.no_grad():
                logits = model(**batch).logits.log_softmax(-1)
            labels = batch["labels"]
            plain = (labels < size - SENTINELS) & (labels != tokenizer.eos_token_id)
            own -= logits.gather(2, labels[..., None])[..., 0][plain].sum().item()
            other += rare[labels[plain]].sum().item()
            words += int(plain.sum())
        print(f"mini-t5 {own / words:.2f}, frequencies {other / words:.2f} (loss per hidden token)")


def show_continuations(model: object, tokenizer: object) -> None:
    """Print greedy continuations of three beginnings."""
    for start in ("The war began when", "She opened the door and", "Water is a"):
        ids = tokenizer(start, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=25, do_sample=False, repetition_penalty=1.3)
        print("  " + tokenizer.decode(out[0], skip_special_tokens=True).replace("\n", " / "))


# -------------------------------------------------------------------------------- text to text


def text(args: argparse.Namespace) -> None:
    """Train mini-t5, pretrained and from random weights, to name the sentiment in a word."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from adaptkit.tasks.reading.source import subset

    folder = bundled.MINIS / "mini-t5"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    files = {s: str(args.data / "sst2" / f"{s}.parquet") for s in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    train = subset(rows["train"], ROWS, 0, rows["train"]["label"][:])
    answers = tokenizer(["negative", "positive"], padding=True, return_tensors="pt")["input_ids"]
    answers[answers == tokenizer.pad_token_id] = -100
    batches = {
        split: [tokenizer(f"sst2 sentence: {t}")["input_ids"] for t in part["sentence"]]
        for split, part in (("train", train), ("validation", rows["validation"]))
    }

    def encode(split: str, chosen: list[int]) -> dict:
        return tokenizer.pad(
            {"input_ids": [batches[split][i] for i in chosen]}, return_tensors="pt"
        )

    for kind in ("pretrained", "random"):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        if kind == "random":
            model = type(model)(model.config)
        labels, order = torch.tensor(train["label"][:]), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        total, clock = EPOCHS * math.ceil(len(train) / 32), time.monotonic()
        warm = [min(1.0, (i + 1) / (0.06 * total)) * (1 - i / total) for i in range(total + 1)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm.__getitem__)
        for _ in range(EPOCHS):
            model.train()
            for chosen in torch.randperm(len(train), generator=order).split(32):
                loss = model(
                    **encode("train", chosen.tolist()), labels=answers[labels[chosen]]
                ).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        model.eval()
        right, gold = 0, rows["validation"]["label"][:]
        for chosen in torch.arange(len(gold)).split(64):
            inputs = encode("validation", chosen.tolist())
            with torch.no_grad():
                losses = torch.stack([answer_loss(model, inputs, answer) for answer in answers], 1)
            right += sum(int(losses[i].argmin()) == gold[c] for i, c in enumerate(chosen.tolist()))
        print(f"mini-t5 text to text, {kind}: {right / len(gold):.3f} "
              f"({time.monotonic() - clock:.0f} s)", flush=True)  # fmt: skip


def answer_loss(model: object, inputs: dict, answer: object) -> object:
    """Return the loss of one answer for every row."""
    import torch

    labels = answer[None].repeat(len(inputs["input_ids"]), 1)
    logits = model(**inputs, labels=labels).logits.transpose(1, 2)
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none").sum(1)


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("sst2", "text", "words"):
        one = commands.add_parser(name)
        one.add_argument("--data", type=Path, required=True, help="folder with sst2/train.parquet")
        one.add_argument("--models", nargs="+", metavar="NAME:SEEDS",
                         default=["mini-bert:3", "mini-gpt2:1", "mini-t5:1"])  # fmt: skip
        one.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    one = commands.add_parser("language")
    one.add_argument("--data", nargs="+", required=True, metavar="FILE:COLUMN")
    one.add_argument("--heldout", nargs="+", required=True, metavar="FILE:COLUMN")
    args = parser.parse_args()
    {"sst2": sst2, "language": language, "text": text, "words": words}[args.command](args)


if __name__ == "__main__":
    main()
