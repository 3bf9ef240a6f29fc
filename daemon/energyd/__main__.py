"""How is the daemon started without an installed script? `python -m energyd`."""

from energyd.cli import main

main()
