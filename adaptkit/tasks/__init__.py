"""TASKS: one file per kind of task; a data set is a YAML of one of these kinds.

Like `adaptkit.methods`, these modules do not import torch at import time.
"""

from adaptkit.tasks.choice import Choice
from adaptkit.tasks.classify import Classify
from adaptkit.tasks.dependency import Dependency
from adaptkit.tasks.gap import Gap
from adaptkit.tasks.lm import LM
from adaptkit.tasks.mlm import MLM
from adaptkit.tasks.regress import Regress
from adaptkit.tasks.seq2seq import Seq2Seq
from adaptkit.tasks.span import Span
from adaptkit.tasks.tag import Tag

TASKS: dict[str, type] = {
    "classify": Classify,
    "regress": Regress,
    "tag": Tag,
    "dependency": Dependency,
    "choice": Choice,
    "gap": Gap,
    "span": Span,
    "seq2seq": Seq2Seq,
    "lm": LM,
    "mlm": MLM,
}
