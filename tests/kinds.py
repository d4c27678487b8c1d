"""A small task of every kind, read from files in the folder of a test."""

from __future__ import annotations

from pathlib import Path

from commandline import write


def kinds(folder: Path) -> dict[str, list[str]]:
    """Write the files, and return the options of each kind of task.

    The texts have several lengths, so that masks hide some places.
    """
    text = "the film was not bad , and the music was great"
    texts = [" ".join(text.split()[:k]) for k in (3, 11, 7, 9) * 4]
    rows = {
        "span": [{"question": "what was great ?", "context": f"{one} the music",
                  "answers": "the music"} for one in texts],
        "seq2seq": [{"text": one, "target": "good film"} for one in texts],
        "words": [{"text": one, "label": "bad" if i % 2 else "good"}
                  for i, one in enumerate(texts)],
        "plain": [{"text": one} for one in texts],
        "tokens": [{"tokens": one.split(), "tags": ["x", "y", *"x" * 9][: len(one.split())],
                    "head": [0, *[1] * (len(one.split()) - 1)]} for one in texts],
        "gaps": [{"text": one, "query": "the @placeholder was great", "answers": "music",
                  "candidates": ["music", "film"]} for one in texts],
        "choices": [{"text": one, "a": "good", "b": "a bad film", "label": i % 2}
                    for i, one in enumerate(texts)],
    }  # fmt: skip
    for kind, lines in rows.items():
        for split in ("train", "validation"):
            write(folder / kind / f"{split}.jsonl", lines)
    words = ["task=classify", f"task.path={folder / 'words'}", "task.text=text"]
    return {
        "sequence": words,
        "cloze": [*words, "task.form=cloze", "task.template='{first} It was {label}.'"],
        "span": ["task=span", f"task.path={folder / 'span'}", "task.max_length=24",
                 "task.stride=4"],
        "seq2seq": ["task=seq2seq", f"task.path={folder / 'seq2seq'}", "task.source=text",
                    "task.max_target_length=4"],
        "lm": ["task=lm", f"task.path={folder / 'plain'}"],
        "mlm": ["task=mlm", f"task.path={folder / 'plain'}"],
        "tag": ["task=tag", f"task.path={folder / 'tokens'}"],
        "dependency": ["task=dependency", f"task.path={folder / 'tokens'}", "task.rank=8"],
        "choice": ["task=choice", f"task.path={folder / 'choices'}", "task.text=text",
                   "task.choices=[a,b]"],
        "text": [*words, "task.form=text"],
        "gap": ["task=gap", f"task.path={folder / 'gaps'}", "task.text=text"],
    }  # fmt: skip
