"""Readers of model files that execute nothing, allocate nothing on a file's word, and raise `CgptcError` alone.

Architecture invariant: nothing here imports torch, unpickles, or follows a name in a file to another place.
"""

from cgptc.frontend.readers.checkpoint import Checkpoint
from cgptc.frontend.readers.folder import read_config
from cgptc.frontend.readers.kinds import Kind
from cgptc.frontend.readers.opening import open_checkpoint, open_exported, sniff
from cgptc.frontend.readers.plain_json import JsonObject, JsonValue
from cgptc.frontend.readers.pt2 import ExportedArchive

__all__ = [
    "Checkpoint",
    "ExportedArchive",
    "JsonObject",
    "JsonValue",
    "Kind",
    "open_checkpoint",
    "open_exported",
    "read_config",
    "sniff",
]
