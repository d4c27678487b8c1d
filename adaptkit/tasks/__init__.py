"""TASKS: one file per kind of task; a dataset is a YAML of one of these kinds.

Like `adaptkit.methods`, these modules do not import torch at import time.
"""

from adaptkit.tasks.classify import Classify
from adaptkit.tasks.regress import Regress

TASKS: dict[str, type] = {"classify": Classify, "regress": Regress}
