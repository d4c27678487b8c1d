"""`python -m adaptkit` is the `adaptkit` command."""

import sys

from adaptkit.cli.main import main

sys.exit(main())
