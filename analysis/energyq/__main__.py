"""How is energyq run without its script? `python -m energyq`."""

from energyq.cli import script

script()
