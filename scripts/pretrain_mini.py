"""Pretrain one of three mini language models from scratch on a CPU.

The models are small enough to ship with a package (below 8 MB each as bf16 safetensors plus
tokenizer) and load with plain ``from_pretrained``:

- ``mini-bert``: BERT encoder, masked language modelling, lower-cased WordPiece vocabulary;
- ``mini-gpt2``: GPT-2 decoder, next-token prediction, lower-casing byte-level BPE;
- ``mini-t5``: T5 encoder-decoder, span corruption, lower-cased Unigram with sentinel tokens.

What a run does, in order:

1. reads the texts (``--data``), drops repeated ones and every one that shares an n-gram of 13
   words with a text named by ``--exclude`` or ``--heldout``, and proves by a second, independent
   pass that no such n-gram is left (``ngram_report.json``);
2. trains the vocabulary, tokenises once, and keeps both in ``--cache``;
3. starts the token embeddings from the counts of which tokens stand near each other (``vectors``);
4. trains with the Hugging Face ``Trainer``: packed sequences, small batches, no dropout, bf16
   autocast, the learning rate scheduled on the processor time of a thread (``--minutes``), so that
   it reaches zero at the end whatever else the machine does meanwhile;
5. writes the model, ``curve.jsonl`` and ``result.json`` to ``--output``. Checkpoints in float32
   go to ``OUTPUT/checkpoints``; the same command line continues from the newest one, also with
   larger ``--minutes`` after the run is finished.

Usage::

    python scripts/pretrain_mini.py --model mini-bert --output out/mini-bert --minutes 50 \\
        --data corpus/train.parquet:text --data snli/train.parquet:premise+hypothesis \\
        --exclude 'sets/*/validation*.parquet' --exclude 'sets/*/test*.parquet' \\
        --heldout corpus/validation.parquet:text

On a machine with other work to do, set ``OMP_WAIT_POLICY=PASSIVE``: otherwise the threads wait for
each other busily, and one busy core slows a step ten times.

A file is Parquet or JSON lines (``FILE:column``, or ``FILE:first+second`` for the texts of two
columns in one document) or plain text (documents separated by blank lines).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from pretraining.objectives import IGNORE, Collator
from pretraining.recipes import RECIPES, Recipe, vectors
from pretraining.texts import read_json, sources, write_json
from pretraining.tokens import Blocks, prepare, save_tokenizer, tokenise
from pretraining.training import Clock, MiniTrainer, Progress
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

LOGGER = logging.getLogger("pretrain_mini")


def training_arguments(args: argparse.Namespace, recipe: Recipe) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(args.output / "checkpoints"),
        per_device_train_batch_size=max(1, args.batch_tokens // args.positions),
        max_steps=10_000_000,  # the clock ends the run
        learning_rate=args.learning_rate or recipe.learning_rate,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_steps=args.log_steps,
        save_strategy="no",  # the clock asks for checkpoints
        save_total_limit=2,
        seed=args.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


def newest_checkpoint(args: argparse.Namespace) -> Path | None:
    """Return the checkpoint to continue from: the one asked for or the newest complete one."""
    if args.resume == "none":
        return None
    if args.resume != "auto":
        return Path(args.resume)
    folders = [note.parent for note in args.output.glob("checkpoints/checkpoint-*/clock.json")]
    return max(folders, key=lambda folder: int(folder.name.split("-")[1]), default=None)


def restore(clock: Clock, checkpoint: Path | None, curve: Path) -> None:
    """Set the clock to the checkpoint's time and cut the curve back to it."""
    step = -1
    if checkpoint:
        clock.seconds = clock.saved = read_json(checkpoint / "clock.json")["seconds"]
        step = int(checkpoint.name.split("-")[1])
        LOGGER.info("continuing from %s at %.0f s", checkpoint, clock.seconds)
    lines = curve.read_text(encoding="utf-8").splitlines() if curve.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    curve.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    tokens: np.ndarray,
    args: argparse.Namespace,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train until the clock runs out; return the model and the figures of the run."""
    torch.manual_seed(args.seed)
    model = recipe.build(tokenizer, args.positions)
    table = model.get_input_embeddings().weight
    if args.vectors:
        table.data.copy_(vectors(tokens, *table.shape) * table.std())
    model.set_attn_implementation("eager")  # on a CPU faster than the fused kernels' backward
    LOGGER.info("%d parameters, %d training tokens", model.num_parameters(), len(tokens))
    clock = Clock(args.minutes * 60, args.warmup)
    checkpoint = newest_checkpoint(args)
    restore(clock, checkpoint, args.output / "curve.jsonl")
    settings = training_arguments(args, recipe)
    batch_tokens = settings.per_device_train_batch_size * args.positions
    trainer = MiniTrainer(
        recipe,
        clock,
        model=model,
        args=settings,
        train_dataset=Blocks(tokens, args.positions),
        data_collator=collator(recipe, tokenizer, args, args.long_share),
        callbacks=[Progress(clock, args.output / "curve.jsonl", batch_tokens, args.save_seconds)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if clock.seconds < clock.total:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    else:
        model = type(model).from_pretrained(checkpoint)
    steps = trainer.state.global_step
    figures = {"steps": steps, "seconds": round(clock.seconds, 1), "tokens": steps * batch_tokens}
    return model, figures


def collator(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, share: float
) -> Collator:
    rate = args.mask or recipe.rate
    return Collator(recipe.batch, tokenizer, args.length, share, rate, args.seed)


def save_model(model: PreTrainedModel, recipe: Recipe, folder: Path) -> None:
    """Save the weights as bf16, with the usual dropout for later fine-tuning.

    The configuration says float32, so that loading gives float32 weights without being asked.
    """
    for name in recipe.dropouts:
        setattr(model.config, name, 0.1)
    model.config.use_cache = True  # switched off by the trainer
    model.to(torch.bfloat16).save_pretrained(folder)
    config = read_json(folder / "config.json")
    config.pop("torch_dtype", None)
    write_json(folder / "config.json", config | {"dtype": "float32"})


@torch.no_grad()
def heldout_loss(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> dict[str, float]:
    """Load the saved model and return its loss on the held-out texts."""
    model = getattr(transformers, recipe.auto).from_pretrained(args.output).eval()
    documents = [parts for source in sources(args.heldout) for parts in source.documents()]
    blocks = Blocks(tokenise(recipe, tokenizer, documents), args.positions)
    collate = collator(recipe, tokenizer, args, 0.0)
    total, count = 0.0, 0
    for start in range(0, len(blocks), 8):
        batch = collate([blocks[i] for i in range(start, min(start + 8, len(blocks)))])
        number = int((batch["labels"] != IGNORE).sum())
        total += recipe.loss(model, batch).item() * number
        count += number
    loss = total / max(count, 1)
    return {"loss": loss, "perplexity": math.exp(loss), "positions": count}


def finish(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
    args: argparse.Namespace,
    notes: dict[str, Any],
) -> None:
    """Save model and tokenizer, test what was saved, and write the result."""
    notes["parameters"] = model.num_parameters()
    save_model(model.cpu(), recipe, args.output)
    save_tokenizer(tokenizer, args.output)
    files = ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json")
    notes["bytes"] = {name: (args.output / name).stat().st_size for name in files}
    if args.heldout:
        notes["heldout"] = heldout_loss(recipe, tokenizer, args)
    write_json(args.output / "result.json", notes)
    LOGGER.info("done: %s", {key: notes.get(key) for key in ("heldout", "bytes", "parameters")})


def parser() -> argparse.ArgumentParser:
    shown = argparse.ArgumentParser(
        description="Pretrain a mini language model from scratch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = shown.add_argument
    add("--model", choices=sorted(RECIPES), required=True, help="which model to train")
    add("--output", type=Path, required=True, help="folder for model, checkpoints and reports")
    many = {"action": "append", "metavar": "FILE[:COLUMN[+COLUMN]]"}
    add("--data", required=True, help="training text: parquet, jsonl or txt, or a pattern", **many)
    add("--exclude", default=[], help="text not to train on (no COLUMN: all text columns)", **many)
    add("--heldout", default=[], help="text for the final test; excluded as well", **many)
    add("--cache", type=Path, help="folder for prepared data (default: OUTPUT/cache)")
    add("--minutes", type=float, default=50, help="processor time a thread, without preparation")
    add("--resume", default="auto", help="checkpoint; 'auto': the newest in OUTPUT; or 'none'")
    add("--seed", type=int, default=0, help="seed of initialisation, order and masking")
    add("--threads", type=int, default=0, help="CPU threads (0: torch decides)")
    add_sizes(shown)
    return shown


def add_sizes(shown: argparse.ArgumentParser) -> None:
    add = shown.add_argument
    add("--vocabulary", type=int, help="tokens in the vocabulary (default: the model's recipe)")
    add("--vocabulary-words", type=int, default=4_000_000, help="words to train it on, about")
    add("--positions", type=int, default=512, help="longest sequence of the model")
    add("--length", type=int, default=128, help="sequence length in training")
    add("--vectors", action=argparse.BooleanOptionalAction, default=True, help="start from counts")
    add("--long-share", type=float, default=0.1, help="share of batches in full length instead")
    add("--batch-tokens", type=int, default=4096, help="tokens in a batch")
    add("--learning-rate", type=float, help="peak learning rate (default: the model's recipe)")
    add("--warmup", type=float, default=0.03, help="share of the time with rising learning rate")
    add("--mask", type=float, help="share of tokens to predict (default: the model's recipe)")
    add("--ngram", type=int, default=13, help="words in an n-gram of the leak check")
    add("--shortest", type=int, default=8, help="shorter texts are not compared")
    add("--save-seconds", type=float, default=300, help="training time between checkpoints")
    add("--log-steps", type=int, default=50, help="steps between rows of curve.jsonl")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    if args.positions % args.length:
        raise SystemExit("--positions must be a multiple of --length")
    args.cache = args.cache or args.output / "cache"
    for folder in (args.output, args.cache):
        folder.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = RECIPES[args.model]
    tokenizer, tokens, report = prepare(recipe, args)
    write_json(args.output / "ngram_report.json", report)
    model, figures = train(recipe, tokenizer, tokens, args)
    notes = {"model": args.model, "training": figures, "settings": vars(args)}
    notes |= {"training_tokens": len(tokens), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
    notes |= {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    finish(recipe, tokenizer, model, args, notes | {"ngram_report": report})


if __name__ == "__main__":
    main()
