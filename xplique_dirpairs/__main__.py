"""``python -m xplique_dirpairs``: the command line."""

import sys

from xplique_dirpairs.cli import main

sys.exit(main())
