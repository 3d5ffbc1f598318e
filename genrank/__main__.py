"""``python -m genrank``."""

import sys

from genrank.cli import main

sys.exit(main())
