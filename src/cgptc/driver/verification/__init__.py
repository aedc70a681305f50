"""``verify``: an artifact against PyTorch, and where it parts from it."""

from cgptc.driver.verification.checks import Check, Verification
from cgptc.driver.verification.verify import verify_against, verify_files, verify_model

__all__ = ["Check", "Verification", "verify_against", "verify_files", "verify_model"]
