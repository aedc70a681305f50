"""Every example compiles a module and verifies it."""

from tests.traced_once import modules_are_traced_once

__all__ = ["modules_are_traced_once"]
