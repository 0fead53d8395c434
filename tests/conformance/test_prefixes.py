"""The prefix cache over every engine: the logits of a session without one, within its bound."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.prefixes import PrefixCache
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower
from tests.conformance import test_sessions
from tests.small import ADDS

folders, folder, session = test_sessions.folders, test_sessions.folder, test_sessions.session


def held(cache: PrefixCache) -> list[tuple[int, ...]]:
    """The documents whose states a cache holds, found by walking its trie, whose shape is checked on the way."""
    found: list[tuple[int, ...]] = []
    size = 0
    todo = [((), cache._root)]
    while todo:
        path, node = todo.pop()
        for first, below in node.below.items():
            assert below.above is node and len(below.edge) and below.edge[0] == first
            assert below.held or len(below.below) > 1
            todo.append(((*path, *below.edge.tolist()), below))
        size += node.edge.nbytes
        if node.held:
            size += node.held.state_bytes
            assert node.held.tokens == len(path) and node.held.latest == list(path[-64:])
            found.append(path)
    assert size == cache.bytes <= cache.max_bytes and len(found) == len(cache)
    return found


def plain(session: Session, pieces: Sequence[Sequence[int]]) -> np.ndarray:
    """The logits of a new document that is read in these pieces."""
    one = session.fork()
    one.reset()
    return [one.prefill(piece) for piece in pieces][-1]


def test_random_documents_give_the_bits_of_a_session_without_a_cache(folder: Path, session: Session) -> None:
    slow = folder.name == "tenstorrent"
    rng = random.Random(1)
    shared = [[rng.randrange(6) for _ in range(rng.randrange(1, 9))] for _ in range(4)]
    cache = PrefixCache(session, 5 * session.state_bytes + 300)
    for _ in range(6 if slow else 60):
        ids = [*rng.choice(shared), *rng.choice(shared), *(rng.randrange(3) for _ in range(rng.randrange(3)))]
        one = session.fork()
        before = cache.tokens_saved, cache.tokens_read
        known = [len(path) for path in held(cache) if tuple(ids[: len(path)]) == path]
        logits = cache.prefill(ids, one)
        assert cache.tokens_saved - before[0] == max(known, default=0)
        assert cache.tokens_saved + cache.tokens_read == sum(before) + len(ids)
        assert one.tokens == len(ids) and one.latest == ids[-64:] and tuple(ids) in held(cache)
        if folder.name in ("cpu", "tenstorrent"):
            assert np.array_equal(logits, plain(session, [ids]))
        else:  # their prompts in pieces have other roundings
            np.testing.assert_allclose(logits, plain(session, [ids]), rtol=1e-4, atol=1e-5)
        twin = session.fork()
        assert np.array_equal(cache.prefill(ids, twin), logits)  # all of it is known now
        token = int(logits.argmax())
        assert np.array_equal(one.step(token), twin.step(token))
        cache.keep([*ids, token], one)
        assert (*ids, token) in held(cache)
    assert cache.hits and cache.misses and (cache.evicted or slow)
    cache.clear()
    assert held(cache) == []


@pytest.fixture(scope="module")
def adds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adds")
    write_artifact(lower(load_text(ADDS)), "cpu", made)
    return made


def test_a_prompts_beginning_is_read_once(adds: Path) -> None:
    with Session.open(adds) as session:
        cache = PrefixCache(session, 1 << 20)
        system = list(range(40))
        for n, (read, states) in enumerate([(41, 1), (41, 3), (1, 4), (1, 5)]):
            before = cache.tokens_read
            cache.prefill([*system, 100 + n])
            assert cache.tokens_read - before == read and len(cache) == states == len(held(cache))
        assert (cache.hits, cache.misses, cache.tokens_saved) == (2, 2, 80)
        assert session.tokens == 41  # the cache's own session went along


def test_the_state_that_was_used_the_longest_ago_makes_room(adds: Path) -> None:
    with Session.open(adds) as session:
        cache = PrefixCache(session, 2 * session.state_bytes + 100)
        for ids in ([1, 2], [3, 4], [1, 2], [5, 6]):
            cache.prefill(ids)
        assert sorted(held(cache)) == [(1, 2), (5, 6)] and cache.evicted == 1
        cache.prefill([7] * 5000)  # its tokens have no room
        assert sorted(held(cache)) == [(1, 2), (5, 6)]


def test_what_is_refused_changes_nothing(adds: Path, tmp_path: Path) -> None:
    with Session.open(adds) as session, Session.open(adds) as other:
        with pytest.raises(ArtifactError, match="holds no state") as e:
            PrefixCache(session, session.state_bytes - 1)
        assert str(session.state_bytes) in e.value.help
        cache = PrefixCache(session, 1 << 20)
        cache.prefill([1, 2, 3])
        other.prefill([1, 2, 3])
        with pytest.raises(ArtifactError, match="no fork"):
            cache.prefill([1, 2], other)
        with pytest.raises(ArtifactError, match="another artefact"):
            cache.keep([1, 2, 3], other)
        for tokens in ([1, 2], [1, 2, 4], []):
            with pytest.raises(ArtifactError, match="not the tokens"):
                cache.keep(tokens, session)
        with pytest.raises(ArtifactError, match="vocabulary"):
            cache.prefill([1, 256])
        assert held(cache) == [(1, 2, 3)] and session.tokens == other.tokens == 3
        with pytest.raises(ArtifactError, match="empty prompt"):
            cache.prefill([])
    with pytest.raises(ArtifactError, match="is closed"):
        cache.prefill([1, 2, 3])


def test_a_state_takes_what_it_says(session: Session) -> None:
    """At least its pieces, its logits and its latest tokens; and not much more than a few times that."""
    session.prefill([1, 2, 3])
    least = sum(4 * value.size for value in session.state().values()) + 4 * session.vocab
    assert least <= session.state_bytes <= 8 * least + 50_000
