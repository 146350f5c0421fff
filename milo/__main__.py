"""``python -m milo``."""

from milo.entry import main

main()
