"""An artefact in a module's place: what any target's program predicts, scored as the trained module is.

Input: an artefact's folder.  Output: a module whose `forward` streams each row token by token through a session of its
own; the state lies in the sessions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cdrmix.runtime.session import Session


class Streamed(nn.Module):
    """`rows` sessions of one artefact."""

    def __init__(self, folder: Path, rows: int):
        super().__init__()
        first = Session.open(folder)
        self.sessions = [first, *(first.fork() for _ in range(rows - 1))]

    def forward(self, tokens: Tensor, state: object, reset: Tensor) -> tuple[Tensor, object]:
        """tokens, reset [B, T] to logits [B, T, vocab]; a `state` of None begins every row anew."""
        rows, length = tokens.shape
        logits = torch.empty(rows, length, self.sessions[0].vocab)
        for row, session in zip(range(rows), self.sessions, strict=False):
            if state is None:
                session.reset()
            for t in range(length):
                if reset[row, t]:
                    session.reset()
                logits[row, t] = torch.from_numpy(session.step(int(tokens[row, t])))
        return logits, self
