"""States of prompts that were read before, so that what prompts share is read once.

Input: a session, and whole prompts, each from its document's beginning.  Output: the logits after them.
The states stand in a trie: where a prompt ended, and where two prompts part.  A state is a fork, for any target.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.session import Session, token_ids


@dataclass(eq=False, slots=True)
class _Node:
    """A place in the trie.  Every node but the root holds a state, or has two or more below it."""

    edge: np.ndarray  # int32, the tokens since the node above
    above: _Node | None
    below: dict[int, _Node] = field(default_factory=dict)  # by the first token of their edges
    held: Session | None = None


class PrefixCache:
    """The states of one artefact's prompts in at most `max_bytes` of memory; what was used the longest ago makes room.

    The logits and states are, bit for bit, those of a session that reads the same pieces; on targets where a prompt
    gives the bits of its tokens one by one (`cpu`, `tenstorrent`), those of one without a cache.  One thread at a time
    may use a cache and its sessions.
    """

    def __init__(self, session: Session, max_bytes: int):
        """`session` is any of the artefact; it is the one that `prefill` uses where none is given."""
        if max_bytes < session.state_bytes:
            raise ArtifactError(
                f"a prefix cache of {max_bytes} bytes holds no state",
                f"a state of this artefact takes {session.state_bytes}: give several times that",
            )
        self._session, self.max_bytes = session, max_bytes
        self._beginning = session.fork()
        self._beginning.reset()
        self._root = _Node(np.zeros(0, np.int32), None)
        self._used = OrderedDict[_Node, None]()  # those that hold a state, the one used last at the end
        self.bytes = 0
        """What the states and the tokens on the way to them take now."""
        self.hits = self.misses = self.evicted = 0
        """Prompts that began from a state, prompts that were read whole, and states that made room."""
        self.tokens_saved = self.tokens_read = 0

    def __len__(self) -> int:
        """How many states are held."""
        return len(self._used)

    def prefill(self, tokens: Sequence[int], session: Session | None = None) -> np.ndarray:
        """Begin a document of `tokens` in the session, from the longest prefix that is known, and keep its state.

        The logits for the token after it, float32 [vocab].  A session of another artefact is refused.
        """
        session = session or self._session
        ids = np.array(token_ids(tokens, session.vocab), np.int32)
        known, parts = self._find(ids)
        session.rewind(known.held if known and known.held else self._beginning)
        if known:
            self._used.move_to_end(known)
        if session.tokens:
            self.hits += 1
        elif len(ids):
            self.misses += 1
        self.tokens_saved += session.tokens
        if session.tokens < parts < len(ids):  # other prompts may part from this one here, too
            self._read(session, ids[:parts])
        return self._read(session, ids)

    def keep(self, tokens: Sequence[int], session: Session) -> None:
        """Keep the state of a session whose whole document is `tokens`: after an answer, for the turn that follows."""
        ids = np.array(token_ids(tokens, session.vocab), np.int32)
        if session.tokens != len(ids) or session.latest != ids[-max(len(session.latest), 1) :].tolist():
            raise ArtifactError("these are not the tokens that the session has read", "give its whole document")
        if not self._beginning.shares(session):
            raise ArtifactError("the session is of another artefact", "give a fork of the cache's own")
        if len(ids):
            self._keep(ids, session)

    def clear(self) -> None:
        """Let go of every state."""
        self._used.clear()
        self._root.below.clear()
        self.bytes = 0

    def _read(self, session: Session, ids: np.ndarray) -> np.ndarray:
        """Read on to the end of `ids`, of which the session has read some, and keep the state."""
        rest = ids[session.tokens :]
        logits = session.prefill(rest.tolist())
        self.tokens_read += len(rest)
        self._keep(ids, session)
        return logits

    def _find(self, ids: np.ndarray) -> tuple[_Node | None, int]:
        """The deepest node that holds a state of the beginning of `ids`; where `ids` leaves the trie."""
        node, at, known = self._root, 0, None
        while at < len(ids) and (below := node.below.get(int(ids[at]))):
            same = _shared(below.edge, ids[at:])
            at += same
            if same < len(below.edge):
                break
            node = below
            known = node if node.held else known
        return known, at

    def _keep(self, ids: np.ndarray, session: Session) -> None:
        """Put a session's state at the end of `ids`, where it and its tokens have room."""
        room = session.state_bytes + ids.nbytes
        known, _ = self._find(ids)
        if known and known.held and known.held.tokens == len(ids):
            self._used.move_to_end(known)
            return
        if room > self.max_bytes:
            return
        while self.bytes + room > self.max_bytes:
            self._evict(next(iter(self._used)))
        node = self._place(ids)
        node.held = session.fork()
        self._used[node] = None
        self.bytes += session.state_bytes

    def _place(self, ids: np.ndarray) -> _Node:
        """The node at the end of `ids`, made where there is none."""
        node, at = self._root, 0
        while at < len(ids):
            below = node.below.get(int(ids[at]))
            if below is None:
                below = node.below[int(ids[at])] = _Node(ids[at:].copy(), node)
                self.bytes += below.edge.nbytes
            elif (same := _shared(below.edge, ids[at:])) < len(below.edge):  # a node between
                between = _Node(below.edge[:same].copy(), node, {int(below.edge[same]): below})
                node.below[int(ids[at])] = between
                below.edge, below.above = below.edge[same:].copy(), between
                below = between
            node, at = below, at + len(below.edge)
        return node

    def _evict(self, node: _Node) -> None:
        """Let go of a state, and of the nodes that stood for it alone."""
        del self._used[node]
        self.bytes -= self._session.state_bytes
        self.evicted += 1
        node.held = None
        if not node.below and node.above:
            del node.above.below[int(node.edge[0])]
            self.bytes -= node.edge.nbytes
            node = node.above
        if node.above and node.held is None and len(node.below) == 1:
            (only,) = node.below.values()
            only.edge, only.above = np.concatenate([node.edge, only.edge]), node.above
            node.above.below[int(only.edge[0])] = only


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two runs share from their beginning."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size
