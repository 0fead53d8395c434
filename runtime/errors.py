"""The errors of the runtime."""

from __future__ import annotations


class ArtifactError(Exception):
    """An artefact, a state file or a token that cannot be used: what is wrong, and the remedy."""

    def __init__(self, message: str, help: str = ""):
        self.message, self.help = message, help
        super().__init__(message)


class NoDevice(ArtifactError):
    """This machine has no device, or no driver, that the artefact's program could run on."""
