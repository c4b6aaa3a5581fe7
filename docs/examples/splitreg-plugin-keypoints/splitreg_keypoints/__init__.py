"""An example plugin for splitreg. This module and ``specs`` import no torch, so that ``splitreg list`` stays fast."""
