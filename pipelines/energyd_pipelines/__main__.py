"""What does `python -m energyd_pipelines` do? The same as `distill`."""

from energyd_pipelines.cli import main

main()
