"""`python -m adaptkit` is the `adaptkit` command."""

import sys

from adaptkit.cli import main

sys.exit(main())
