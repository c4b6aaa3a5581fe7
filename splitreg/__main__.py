"""``python -m splitreg``."""

from splitreg.cli.main import main

main()
