"""Most commands here take the same few GPTs."""

from tests.traced_once import gpts_are_traced_once

__all__ = ["gpts_are_traced_once"]
