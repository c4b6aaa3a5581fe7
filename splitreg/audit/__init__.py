"""Privacy audit: what can be reconstructed from packets, beside JPEG of the same size."""

from splitreg.audit.attacker import Attacker
from splitreg.audit.audit import AuditOptions, AuditResult, Reconstruction, audit

__all__ = ["Attacker", "AuditOptions", "AuditResult", "Reconstruction", "audit"]
