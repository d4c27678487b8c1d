"""Scores of generated texts as an `evaluate` module.

rouge          F1 of ROUGE-1, -2, -L and -Lsum (Lin 2004), by rouge-score, which is the authors'
               script in Python; of several references the best per score; the plain mean over
               the rows. Lsum compares sentences: lines, or else what ends in . ! or ?
bleu           corpus BLEU and chrF (sacreBLEU's defaults, from 0 to 100; Post 2018,
               arXiv:1804.08771), and ROUGE-L
exact_match    share of the texts that equal a reference, blanks at the ends aside; chrF
"""

import re
from collections.abc import Iterator, Sequence
from typing import cast

import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from adaptkit.metrics.squad import mean

NAMES = ("rouge", "bleu", "exact_match")
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Text(evaluate.Metric):
    """Scores of texts against one or several references each."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in NAMES:
            raise KeyError(f"no metric of texts is named {self.config_name!r}")
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Lin 2004, W04-1013; Papineni et al. 2002, P02-1040; Popović 2015, W15-3049",
            inputs_description="predictions: texts; references: lists of texts",
            features=datasets.Features(
                {"predictions": text, "references": datasets.Sequence(text)}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[list[str]], stemmer: bool = True
    ) -> dict[str, float]:
        if self.config_name == "rouge":
            rows = list(rouge(predictions, references, KINDS, stemmer))
            return {kind: mean([row[kind] for row in rows]) for kind in KINDS}
        table = by_reference(references)
        scores = {"chrf": CHRF().corpus_score(predictions, table).score}
        if self.config_name == "exact_match":
            return {"exact_match": mean(exact(predictions, references)), **scores}
        rows = list(rouge(predictions, references, ("rougeL",), stemmer))
        bleu = BLEU().corpus_score(predictions, table).score
        return {"bleu": bleu, **scores, "rougeL": mean([row["rougeL"] for row in rows])}


def rouge(
    predictions: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str],
    stemmer: bool,
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Yield the F1 of every kind for every row."""
    scorer = RougeScorer(list(kinds), use_stemmer=stemmer)
    for text, right in zip(predictions, references, strict=True):
        scores = scorer.score_multi([in_lines(one) for one in right], in_lines(text))
        yield {kind: score.fmeasure for kind, score in scores.items()}


def in_lines(text: str) -> str:
    """Return a text with one sentence per line."""
    if "\n" in text.strip():
        return text
    return "\n".join(re.split(r"(?<=[.!?])\s+", text.strip()))


def exact(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return for every row 1 if its text equals a reference."""
    pairs = zip(predictions, references, strict=True)
    return [float(text.strip() in {one.strip() for one in right}) for text, right in pairs]


def by_reference(references: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """Return the first references of all rows, their second ones, and so on; None: there is none.

    To sacreBLEU an empty text would be a reference of length 0, the closest to a short answer.
    """
    most = max(map(len, references))
    table = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    return cast("Sequence[Sequence[str]]", table)  # its types leave out None, its text does not
