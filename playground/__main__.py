"""``python -m playground``: the playground without a browser."""

import sys

from playground.cli import main

sys.exit(main())
