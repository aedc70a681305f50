"""The artifact on disk: one folder, every byte hashed, its manifest written last, replaced as a whole or not at all."""

from cgptc.artifact.folder import ArtifactFolder, check_files, open_folder
from cgptc.artifact.manifest import FORMAT_VERSION, FileEntry, Manifest
from cgptc.artifact.writer import ArtifactWriter

__all__ = ["FORMAT_VERSION", "ArtifactFolder", "ArtifactWriter", "FileEntry", "Manifest", "check_files", "open_folder"]
