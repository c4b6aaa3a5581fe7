"""Imported by what needs Python 3.11: models, training and servers. Devices run Python 3.10.

Raises:
    MissingExtra: this Python is older.
"""

from __future__ import annotations

import sys

from splitreg.errors import MissingExtra

#: The oldest Python for everything but the device's half.
MINIMUM = (3, 11)

if sys.version_info < MINIMUM:
    raise MissingExtra(
        f"this part of splitreg needs Python {MINIMUM[0]}.{MINIMUM[1]} or later, this is {sys.version_info[0]}."
        f"{sys.version_info[1]}; the device's half (splitreg edge, splitreg send, splitreg.edge) runs here"
    )
