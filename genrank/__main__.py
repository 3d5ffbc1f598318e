"""``python -m genrank``: the command line."""

import sys

from genrank.cli.main import main

sys.exit(main())
