"""`python -m sdworker.cli`, where the `sdworker` script is not on the path."""

import sys

from sdworker.cli import main

sys.exit(main())
