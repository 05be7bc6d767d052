"""``python -m xplique_dirpairs``: the command line."""

import sys

from xplique_dirpairs.commands.cli import main

sys.exit(main())
