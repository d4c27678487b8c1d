"""What every run needs, imported and made once, before the runs of a command are forked from it."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import adaptkit.metrics.glue
import adaptkit.runs.run
import adaptkit.terminal.progress  # noqa: F401

get_checkpoint_conversion_mapping("bert")  # makes the table of all architectures
