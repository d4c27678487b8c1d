"""What every run needs, imported and made once, before the runs of a command are forked from it."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import adaptkit.metrics.classes
import adaptkit.metrics.glue
import adaptkit.reports.published
import adaptkit.runs.run
import adaptkit.terminal.progress  # noqa: F401
from adaptkit.config.compose import to_yaml
from adaptkit.storage import cache

get_checkpoint_conversion_mapping("bert")  # makes the table of all architectures
cache.code()  # reads all our files
to_yaml({})  # imports what writes configurations
