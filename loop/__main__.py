"""``python -m loop`` is the command ``cereloop``."""

from loop.cli import main

main()
