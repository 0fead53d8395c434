"""The runner on a mock driver, with a little artefact made by hand: numbers, states, batches, choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.device import DeviceEngine, open_engine
from cdrmix.runtime.errors import ArtifactError
from cdrmix.runtime.sampling import Sampling

from . import handmade
from .build import Mock, needs_compilers
from .conftest import Built

pytestmark = needs_compilers
IDS = [int(t) for t in np.random.default_rng(5).integers(0, handmade.VOCAB, 64)]


@pytest.fixture(params=["sm_90", "gfx1100"])
def engine(request: pytest.FixtureRequest, built: Built, mock: Mock, tmp_path: Path) -> Iterator[DeviceEngine]:
    made = opened(built, tmp_path, request.param)
    yield made
    made.close()


def opened(built: Built, folder: Path, *archs: str) -> DeviceEngine:
    """The artefact with code for some archs only."""
    vendors = {arch: "hip" if arch.startswith("gfx") else "cuda" for arch in archs}
    return open_engine(folder, handmade.write(folder, vendors, library=built.runner / "libmodel.so"))


def reference(ids: Sequence[int]) -> tuple[handmade.Reference, np.ndarray]:
    model = handmade.Reference(handmade.weights())
    logits = np.zeros(handmade.VOCAB)
    for t in ids:
        logits = model.step(t)
    return model, logits


def agree(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def same_state(engine: DeviceEngine, state: object, wanted: handmade.Reference) -> None:
    found = engine.read(state)  # type: ignore[arg-type]
    assert found.keys() == wanted.state.keys()
    for path, value in wanted.state.items():
        agree(found[path], value)


def test_steps(engine: DeviceEngine) -> None:
    state, wanted = engine.start(), handmade.Reference(handmade.weights())
    same_state(engine, state, wanted)
    for t in IDS[:12]:
        agree(engine.prefill(state, [t]), wanted.step(t))
        same_state(engine, state, wanted)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 31, 64])
def test_prompts_in_blocks(engine: DeviceEngine, count: int) -> None:
    state = engine.start()
    model, wanted = reference(IDS[:count])
    agree(engine.prefill(state, IDS[:count]), wanted)
    same_state(engine, state, model)
    agree(engine.prefill(state, IDS[:5]), [model.step(t) for t in IDS[:5]][-1])


def test_a_prompt_longer_than_what_waits_at_once(engine: DeviceEngine) -> None:
    ids = (IDS * 80)[:4999]
    state = engine.start()
    model, wanted = reference(ids)
    agree(engine.prefill(state, ids), wanted)
    same_state(engine, state, model)


def test_streams_do_not_disturb_each_other(engine: DeviceEngine) -> None:
    states = [engine.start() for _ in range(3)]
    models = [handmade.Reference(handmade.weights()) for _ in states]
    for n, t in enumerate(IDS[:30]):
        agree(engine.prefill(states[n % 3], [t]), models[n % 3].step(t))
    for state, model in zip(states, models, strict=True):
        same_state(engine, state, model)


def test_a_fork_goes_its_own_way(engine: DeviceEngine) -> None:
    state = engine.start()
    engine.prefill(state, IDS[:9])
    twin = engine.copy(state)
    first = engine.prefill(state, [1])
    engine.prefill(state, [2])
    assert (engine.prefill(twin, [1]) == first).all()


def test_a_copy_of_a_handles_bytes_is_refused(engine: DeviceEngine) -> None:
    state, other = engine.start(), engine.start()
    engine.free(other)
    other.bytes[:] = state.bytes
    with pytest.raises(ArtifactError, match="cdr_state_fork"):
        engine.prefill(other, [1])
    other.bytes[:] = 0
    with pytest.raises(ArtifactError, match="not made by cdr_state_init"):
        engine.prefill(other, [1])


def test_a_step_waits_once_and_the_second_is_a_graph(engine: DeviceEngine, mock: Mock) -> None:
    state = engine.start()
    for n, t in enumerate(IDS[:4]):
        before, launched = mock.waits, mock.count("cuLaunchKernel") + mock.count("hipModuleLaunchKernel")
        engine.prefill(state, [t])
        assert mock.waits == before + 1
        after = mock.count("cuLaunchKernel") + mock.count("hipModuleLaunchKernel")
        assert (after == launched) == (n > 1), "from the third step on nothing is launched one by one"


def test_without_graphs_it_runs_all_the_same(engine: DeviceEngine, mock: Mock) -> None:
    mock.graphs(False)
    state, model = engine.start(), handmade.Reference(handmade.weights())
    for t in IDS[:5]:
        agree(engine.prefill(state, [t]), model.step(t))


@pytest.mark.parametrize("seen", [0, 1, 2, 3, 4, 11])
def test_saved_states_continue(engine: DeviceEngine, seen: int, tmp_path: Path) -> None:
    state = engine.start()
    for t in IDS[:seen]:
        engine.prefill(state, [t])
    engine.save(state, tmp_path / "s")
    model, _ = reference(IDS[:seen])
    again = engine.load(tmp_path / "s")
    same_state(engine, again, model)
    assert (engine.prefill(again, [3]) == engine.prefill(state, [3])).all()
    damaged = bytearray((tmp_path / "s").read_bytes())
    damaged[-20] ^= 1
    (tmp_path / "s").write_bytes(damaged)
    with pytest.raises(ArtifactError, match="damaged"):
        engine.load(tmp_path / "s")


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_batches(engine: DeviceEngine, rows: int) -> None:
    batch = engine.batch(rows)
    models = []
    for row in range(rows):
        state = engine.start()
        if row:
            engine.prefill(state, IDS[: 3 * row])
        models.append(reference(IDS[: 3 * row])[0])
        batch.put(row, state)
    for n in range(4):
        tokens = [IDS[10 * row + n] for row in range(rows)]
        found = batch.step(tokens)
        for row in range(rows):
            agree(found[row], models[row].step(tokens[row]))
    for row in range(rows):
        same_state(engine, batch.take(row), models[row])
    batch.step([-1] + [1] * (rows - 1))
    with pytest.raises(ArtifactError, match="row 0 of the batch holds no state"):
        batch.take(0)
    with pytest.raises(ArtifactError, match="no row"):
        batch.take(rows)
    batch.close()


def test_a_batch_that_is_too_large(engine: DeviceEngine) -> None:
    with pytest.raises(ArtifactError, match="at most 4 sessions, not of 5"):
        engine.batch(5)


def likeliest(model: handmade.Reference, token: int, count: int) -> list[int]:
    found = []
    for _ in range(count):
        token = int(np.argmax(model.step(token)))
        found.append(token)
    return found


def test_the_likeliest_tokens_are_chosen_on_the_device(engine: DeviceEngine, mock: Mock) -> None:
    state, model = engine.start(), handmade.Reference(handmade.weights())
    before = mock.waits
    found = engine.generate(state, 3, 20, Sampling(temperature=0))
    assert mock.waits <= before + 2, "only tokens come back, all at once"
    assert found.tolist() == likeliest(model, 3, 20)
    same_state(engine, state, model)


def test_choices_on_the_device_and_here(engine: DeviceEngine) -> None:
    how = Sampling(temperature=0.7, top_p=0.9, top_k=5, seed=3)
    there = [engine.generate(engine.start(), 3, 30, how).tolist() for _ in range(2)]
    assert there[0] == there[1] and len(set(there[0])) > 3
    here = Sampling(temperature=0.7, top_p=0.9, top_k=0, seed=3)
    found = [engine.generate(engine.start(), 3, 30, here).tolist() for _ in range(2)]
    assert found[0] == found[1] and len(set(found[0])) > 3


def test_a_batch_generates(engine: DeviceEngine) -> None:
    batch = engine.batch(3)
    found = batch.generate([1, 2, 3], 9, Sampling(temperature=0))
    for row in range(3):
        assert found[row].tolist() == likeliest(handmade.Reference(handmade.weights()), row + 1, 9)
    batch.close()


def test_tokens_outside_the_vocabulary(engine: DeviceEngine) -> None:
    state = engine.start()
    for ids in ([handmade.VOCAB], [1, -1], [0] * 20 + [99]):
        with pytest.raises(ArtifactError, match="outside the vocabulary"):
            engine.prefill(state, ids)
    same_state(engine, state, handmade.Reference(handmade.weights()))


def test_closing_gives_back_what_states_hold(built: Built, mock: Mock, tmp_path: Path) -> None:
    engine = opened(built, tmp_path, "sm_90")
    states = [engine.start() for _ in range(3)]
    engine.prefill(states[0], [1])
    engine.close()
    assert mock.live == 0
    with pytest.raises(ArtifactError, match="closed"):
        engine.prefill(states[0], [1])


def test_threads_share_a_model(engine: DeviceEngine) -> None:
    def stream(start: int) -> list[np.ndarray]:
        state = engine.start()
        return [engine.prefill(state, [t]) for t in IDS[start : start + 25]]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(stream, range(4)))
    for start, logits in enumerate(found):
        model = handmade.Reference(handmade.weights())
        for t, row in zip(IDS[start:], logits, strict=False):
            agree(row, model.step(t))


@pytest.mark.parametrize("how", [Sampling(0), Sampling(0.7, top_k=5), Sampling(0.7), Sampling(1e-310, top_k=5)])
def test_nothing_is_chosen_of_nan(
    how: Sampling, built: Built, mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = handmade.weights()
    bad["emb.E"][5] = np.nan
    monkeypatch.setattr(handmade, "weights", lambda *_: bad)
    engine = opened(built, tmp_path, "sm_90")
    state = engine.start()
    engine.generate(state, 4, 1, how)
    batch = engine.batch(2)
    for call in (lambda: engine.generate(state, 5, 9, how), lambda: batch.generate([4, 5], 3, how)):
        with pytest.raises(ArtifactError, match="the logits hold NaN"):
            call()
    batch.close()
    engine.close()


def test_a_tiny_temperature_takes_the_likeliest(engine: DeviceEngine) -> None:
    for how in (Sampling(1e-310, top_k=5), Sampling(1e-310), Sampling(1e-45, top_k=5), Sampling(1e-45)):
        assert engine.generate(engine.start(), 3, 20, how).tolist() == likeliest(reference([])[0], 3, 20)
    assert len(set(engine.generate(engine.start(), 3, 30, Sampling(1e300, top_k=5)).tolist())) > 3
