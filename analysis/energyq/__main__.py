"""How is energyq run without its script? `python -m energyq`."""

import sys

from energyq.cli import main

sys.exit(main())
