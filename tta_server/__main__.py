"""`python -m tta_server`."""

import sys

from tta_server.cli import main

sys.exit(main())
