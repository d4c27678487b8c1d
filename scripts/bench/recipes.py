"""What the peers do for each kind of task, as the examples of transformers do it.

    classify   run_glue.py           score: accuracy
    span       run_qa.py             score: F1; windows that overlap, a window without the answer
                                     is answered by its first token, best of N_BEST x N_BEST spans
    seq2seq    run_summarization.py  score: ROUGE-L; greedy search, NEW tokens for every text
    lm         run_clm.py            score: perplexity; every text is a window of its own, where
                                     run_clm.py joins and cuts them

Each reads and writes what adaptkit does on its side.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.works import LONGEST, N_BEST, NEW, SOURCE, STRIDE, Shape

Features = list[dict[str, Any]]  # what a model reads, one for each text or window


@dataclass(frozen=True)
class Recipe:
    """One kind of task."""

    auto: str  # transformers' class
    peft: str  # PEFT's name of the task
    # (tokenizer, shape, table) -> features, and what `score` must know of them
    encode: Callable[[Any, Shape, Any], tuple[Features, list[Any]]]
    answer: Callable[[Any, Any, Any], list[Any]]  # (model, tokenizer, batch) -> one per feature
    score: Callable[[list[Any], list[Any], Any], float]  # (answers, notes, table)


def collator(kind: str, tokenizer: Any, model: Any) -> Any:
    """Return what makes a batch of features, padded to the longest of it."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    if kind in ("classify", "span"):
        return DataCollatorWithPadding(tokenizer)
    return DataCollatorForSeq2Seq(tokenizer, model=model if kind == "seq2seq" else None)


# ---- classify ----


def labelled(tokenizer: Any, shape: Shape, table: Any) -> tuple[Features, list[Any]]:
    """Encode texts or pairs, cut to their length."""
    texts = [table[column].tolist() for column in shape.text]
    read = tokenizer(*texts, truncation=True, max_length=shape.max_length)
    pairs = zip(read["input_ids"], read["attention_mask"], table["label"].tolist(), strict=True)
    made = [{"input_ids": i, "attention_mask": m, "labels": label} for i, m, label in pairs]
    return made, []


def classes(model: Any, tokenizer: Any, batch: Any) -> list[int]:
    """Return the class of every text."""
    return model(**batch).logits.argmax(-1).tolist()


def accuracy(answers: list[int], notes: list[Any], table: Any) -> float:
    """Return the share of right classes."""
    return sum(map(int.__eq__, answers, table["label"].tolist())) / len(answers)


# ---- span ----


def windows(tokenizer: Any, shape: Shape, table: Any) -> tuple[Features, list[Any]]:
    """Cut texts into windows with the first and last token of the answer; note row and places."""
    question, context = (table[column].tolist() for column in shape.text)
    read = tokenizer(
        [text.lstrip() for text in question], context, truncation="only_second",
        max_length=shape.max_length, stride=STRIDE, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    features, notes, answers = [], [], table["answers"].tolist()
    for number, row in enumerate(read["overflow_to_sample_mapping"]):
        ids, offsets = read["input_ids"][number], read["offset_mapping"][number]
        inside = {i: offsets[i] for i, part in enumerate(read.sequence_ids(number)) if part == 1}
        begin = int(answers[row]["answer_start"][0])
        end = begin + len(answers[row]["text"][0])
        first = last = ids.index(tokenizer.cls_token_id)
        places = list(inside.values())
        if places[0][0] <= begin and places[-1][1] >= end:
            first = max(i for i, (start, _) in inside.items() if start <= begin)
            last = min(i for i, (_, stop) in inside.items() if stop >= end)
        features.append({
            "input_ids": ids, "attention_mask": read["attention_mask"][number],
            "token_type_ids": read["token_type_ids"][number],
            "start_positions": first, "end_positions": last,
        })  # fmt: skip
        notes.append((row, inside))
    return features, notes


def ends(model: Any, tokenizer: Any, batch: Any) -> list[Any]:
    """Return the logits [2, T] of every window."""
    import numpy as np

    output = model(**batch)
    both = (output.start_logits, output.end_logits)
    return list(np.stack([logits.float().cpu().numpy() for logits in both], 1))


def f1(answers: list[Any], notes: list[Any], table: Any) -> float:
    """Return the mean F1 of words between the best span of a row's windows and the answers."""
    best: dict[int, tuple[float, str]] = {}
    context = table["context"].tolist()
    for (row, inside), (starts, stops) in zip(notes, answers, strict=True):
        highest = starts.argsort()[::-1][:N_BEST].tolist()
        for i in highest:
            for j in stops.argsort()[::-1][:N_BEST].tolist():
                if i in inside and j in inside and i <= j < i + LONGEST:
                    score = float(starts[i] + stops[j])
                    if row not in best or score > best[row][0]:
                        best[row] = (score, context[row][inside[i][0] : inside[j][1]])
    right = [list(one["text"]) for one in table["answers"].tolist()]
    found = [best.get(row, (0.0, ""))[1] for row in range(len(context))]
    each = [max(overlap(a, text) for text in texts) for a, texts in zip(found, right, strict=True)]
    return sum(each) / len(each)


def overlap(one: str, other: str) -> float:
    """Return SQuAD's F1 of the words of two texts."""
    words = []
    for text in (one, other):
        bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
        words.append(Counter(re.sub(r"\b(a|an|the)\b", " ", bare).split()))
    common = sum((words[0] & words[1]).values())
    return 2 * common / (words[0].total() + words[1].total()) if common else 0.0


# ---- seq2seq ----


def documents(tokenizer: Any, shape: Shape, table: Any) -> tuple[Features, list[Any]]:
    """Encode documents and summaries, both cut to their length."""
    sources = [SOURCE + text for text in table["document"]]
    read = tokenizer(sources, truncation=True, max_length=shape.max_length)
    labels = tokenizer(text_target=table["summary"].tolist(), truncation=True, max_length=NEW)
    pairs = zip(read["input_ids"], read["attention_mask"], labels["input_ids"], strict=True)
    return [{"input_ids": i, "attention_mask": m, "labels": target} for i, m, target in pairs], []


def summaries(model: Any, tokenizer: Any, batch: Any) -> list[str]:
    """Generate a text of NEW tokens for every document."""
    made = model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False,
        num_beams=1, min_new_tokens=NEW, max_new_tokens=NEW,
    )  # fmt: skip
    return tokenizer.batch_decode(made, skip_special_tokens=True)


def rouge(answers: list[str], notes: list[Any], table: Any) -> float:
    """Return the mean ROUGE-L."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(table["summary"], answers, strict=True)
    return sum(scorer.score(*pair)["rougeL"].fmeasure for pair in pairs) / len(answers)


# ---- lm ----


def whole(tokenizer: Any, shape: Shape, table: Any) -> tuple[Features, list[Any]]:
    """Encode texts after the token that begins texts."""
    read = tokenizer(table["text"].tolist(), add_special_tokens=False, verbose=False)["input_ids"]
    texts = [[tokenizer.bos_token_id, *ids][: shape.max_length] for ids in read]
    return [{"input_ids": i, "attention_mask": [1] * len(i), "labels": i} for i in texts], []


def losses(model: Any, tokenizer: Any, batch: Any) -> list[float]:
    """Return the mean loss of the batch."""
    return [float(model(**batch).loss)]


def perplexity(answers: list[float], notes: list[Any], table: Any) -> float:
    """Return exp of the mean loss of all batches."""
    return math.exp(sum(answers) / len(answers))


RECIPES = {
    "classify": Recipe(
        "AutoModelForSequenceClassification", "SEQ_CLS", labelled, classes, accuracy
    ),
    "span": Recipe("AutoModelForQuestionAnswering", "QUESTION_ANS", windows, ends, f1),
    "seq2seq": Recipe("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", documents, summaries, rouge),
    "lm": Recipe("AutoModelForCausalLM", "CAUSAL_LM", whole, losses, perplexity),
}
