"""A run's folder: one writer, whole checkpoints, and no damage that goes unnoticed or ends in a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cdrmix.checkpoints import find_weights
from cdrmix.diagnose import UserError
from cdrmix.record import Damaged, read_record, write_record
from cdrmix.runs import RECORD, checkpoints
from cdrmix.train.checkpoint import save_checkpoint
from cdrmix.train.config import TrainConfig
from cdrmix.train.lock import Lock
from cdrmix.train.loop import Trainer
from cdrmix.train.progress import Metrics, read_metrics
from cdrmix.train.store import open_store
from cdrmix.train.tokenizer import byte_tokenizer
from tests.small import ADDS, TEXT, write_spec


def config(**changes: object) -> TrainConfig:
    """A run of 6 steps in `run`, all paths relative, as a run's folder may be moved."""
    Path("text.txt").write_text(TEXT[:2000])
    base = {
        "spec": write_spec(Path(), ADDS), "data": {"train": "text.txt"}, "out": "run", "steps": 6, "batch": 2,
        "context": 8, "log_every": 1, "save_every": 2, "keep": 3, "threads": 1, "optim": {"warmup": 2},
    }  # fmt: skip
    return TrainConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with checkpoints of 2, 4 and 6 steps."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        Trainer(config()).train()
    return folder


@pytest.fixture
def folder(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, which holds a copy of it."""
    shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(run: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(run / "metrics.jsonl")]


def as_finished(run: Path, finished: Path) -> None:
    """The run is bitwise the one that nothing happened to, and nothing is left over."""
    assert losses(run) == losses(finished / "run")
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (run / "last" / file).read_bytes() == (finished / "run" / "last" / file).read_bytes()
    assert not [p for p in run.rglob("*") if p.name.endswith(".part")]


# --- one writer ----------------------------------------------------------------------------------------------------
HOLD = """
import sys, time
from pathlib import Path
from cdrmix.train.lock import Lock
lock = Lock(Path(sys.argv[1]), Path(sys.argv[1]) / ".lock")
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_writer_is_told_who_the_first_is_and_a_dead_one_keeps_nothing(folder: Path) -> None:
    run = folder / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
        for resume in (False, True):
            with pytest.raises(UserError, match=f"is being written by process {process.pid} on "):
                Trainer(config(), resume=resume)
        assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    finally:
        process.kill()
        process.wait()
    Trainer(config(), resume=True).train()


def test_a_trainer_lets_go_when_it_is_done_and_when_it_fails(folder: Path) -> None:
    kept = Trainer(config(), resume=True)
    with pytest.raises(UserError, match="is being written by"):
        Trainer(config(), resume=True)
    kept.train()
    with pytest.raises(UserError, match="batch changed") as error:
        Trainer(config(batch=4), resume=True)
    Trainer(config(), resume=True).train()
    assert error.value.help


def test_runs_that_share_a_token_store_wait_for_each_other(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 50)
    (tmp_path / "shared").mkdir()
    make = (
        "import sys; from pathlib import Path\n"
        "from cdrmix.train.store import open_store; from cdrmix.train.tokenizer import byte_tokenizer\n"
        "store = open_store(Path(sys.argv[1]), [Path(sys.argv[2])], 'text', byte_tokenizer(), 256)\n"
        "print(store.digest, int(store.tokens.sum()))"
    )
    links = [tmp_path / f"tokens{n}" for n in range(3)]
    for link in links:
        link.symlink_to("shared")
    runs = [
        subprocess.Popen([sys.executable, "-c", make, link, text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for link in links
    ]
    said = [run.communicate() for run in runs]
    assert all(run.returncode == 0 for run in runs), said
    assert len({out for out, _ in said}) == 1
    assert len(os.listdir(tmp_path / "shared")) == 1


def test_a_lock_that_is_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    held = "import sys; sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("time.sleep(600)", held), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stdout.readline() == b"held\n"
    import threading

    threading.Timer(0.3, process.stdin.close).start()
    Lock(tmp_path, tmp_path / ".lock", wait=True).close()
    assert f"waiting for process {process.pid} on " in capfd.readouterr().err
    process.wait()


# --- damage --------------------------------------------------------------------------------------------------------
Damage = Callable[[Path], None]


def gone(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 0x10
    file.write_bytes(raw)


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def not_utf8(file: Path) -> None:
    file.write_bytes(b"\xff\xfe{}")


def nested(file: Path) -> None:
    file.write_bytes(b"[" * 100_000)


def fifo_instead(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = (gone, empty, cut, flipped, zeroed, folder_instead, fifo_instead, not_utf8, nested)
FILES = ("weights.safetensors", "optimizer.safetensors", "tokenizer.json", "trainer.json")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(
    folder: Path, finished: Path, name: str, damage: Damage
) -> None:
    run = folder / "run"
    damage(run / "last" / name)
    with pytest.warns(UserWarning, match=r"step-00000006 is damaged \(.+\): .*step-00000004 is taken"):
        trainer = Trainer(config(), resume=True)
    assert trainer.step == 4
    trainer.train()
    as_finished(run, finished)
    assert [p.name for p in checkpoints(run)] == ["step-00000006", "step-00000004", "step-00000002"]
    assert (run / "checkpoints" / "step-00000006.damaged").is_dir()


def retyped(file: Path) -> None:
    save_file({n: x.double() for n, x in load_file(file).items()}, file)


def reshaped(file: Path) -> None:
    save_file({n: x[None] for n, x in load_file(file).items()}, file)


def renamed(file: Path) -> None:
    save_file({n.replace("keep", "kept"): x for n, x in load_file(file).items()}, file)


def without_one(file: Path) -> None:
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)


def with_one_more(file: Path) -> None:
    tensors = load_file(file)
    save_file({**tensors, "other": tensors[min(tensors)].clone()}, file)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", [retyped, reshaped, renamed, without_one, with_one_more])
def test_tensors_that_do_not_fit_are_not_taken(
    folder: Path, finished: Path, name: str, damage: Damage, recorded: bool
) -> None:
    home = (folder / "run" / "last").resolve()
    about = read_record(home / RECORD)
    damage(home / name)
    if recorded:  # as if they had been written so
        write_record(home / RECORD, about, about["files"])
    with pytest.warns(UserWarning, match="step-00000004 is taken"):
        Trainer(config(), resume=True).train()
    as_finished(folder / "run", finished)


@pytest.mark.parametrize(
    "change",
    [{"step": "6"}, {"step": -1}, {"step": True}, {"step": None}, {"hash": 1}, {"config": []}, {"data": None},
     {"files": {}}, {"files": {"weights.safetensors": 1}}],
)  # fmt: skip
def test_an_odd_record_is_not_taken(folder: Path, change: dict[str, object]) -> None:
    path = folder / "run" / "last" / RECORD
    record = read_record(path)
    write_record(path, record | change, record["files"])
    if "files" in change:
        sealed = json.loads(path.read_text()) | change
        path.write_text(json.dumps(sealed))
    with pytest.warns(UserWarning, match="step-00000004 is taken"):
        assert Trainer(config(), resume=True).step == 4


def test_a_record_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    write_record(tmp_path / "r.json", {"a": 1.5}, ["file"])
    assert read_record(tmp_path / "r.json")["a"] == 1.5
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace("1.5", "2.5"))
    with pytest.raises(Damaged, match=r"r.json is not as it was written"):
        read_record(tmp_path / "r.json")


def test_nothing_whole_is_refused_and_changes_nothing(folder: Path) -> None:
    run = folder / "run"
    for home in checkpoints(run):
        flipped(home / "weights.safetensors")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and not p.name.endswith("lock")}
    with pytest.raises(UserError, match="no checkpoint of .* is whole") as error:
        Trainer(config(), resume=True)
    assert error.value.message.count("weights.safetensors is not as it was written") == 3
    with pytest.raises(UserError, match="holds a run already"):
        Trainer(config())
    assert {p: p.read_bytes() for p in before} == before


# --- last ----------------------------------------------------------------------------------------------------------
def dangling(last: Path) -> None:
    last.unlink()
    last.symlink_to("checkpoints/step-00000099")


def to_itself(last: Path) -> None:
    last.unlink()
    last.symlink_to("last")


@pytest.mark.parametrize("damage", [gone, dangling, to_itself])
def test_without_last_the_newest_whole_checkpoint_is_found(folder: Path, finished: Path, damage: Damage) -> None:
    run = folder / "run"
    damage(run / "last")
    with pytest.raises(UserError, match="holds a run already"):
        Trainer(config())  # it is not begun anew
    for named in (run, *([run / "last"] if damage is not gone else [])):
        with pytest.warns(UserWarning, match=r"last leads nowhere: .*step-00000006"):
            assert find_weights(named) == run / "checkpoints" / "step-00000006" / "weights.safetensors"
    with pytest.warns(UserWarning, match=r"last leads nowhere: .*step-00000006"):
        Trainer(config(), resume=True).train()
    as_finished(run, finished)


def test_last_may_be_pointed_at_an_older_one(folder: Path, finished: Path) -> None:
    run = folder / "run"
    (run / "last").unlink()
    (run / "last").symlink_to("checkpoints/step-00000002")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_weights(run).parent.name == "step-00000002"
        trainer = Trainer(config(), resume=True)
    assert trainer.step == 2
    trainer.train()
    as_finished(run, finished)


def test_last_leads_to_the_first_checkpoint_as_soon_as_it_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "run"
    shutil.rmtree(run)
    seen = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        seen.append(((run / "last").exists(), bool(checkpoints(run))))
        done = rename(path, target)
        seen.append(((run / "last").exists(), bool(checkpoints(run))))
        return done

    monkeypatch.setattr(Path, "rename", watched)
    Trainer(config(steps=2)).train()
    assert (False, False) in seen and (True, True) in seen and all(one == two for one, two in seen)


def test_a_folder_in_the_place_of_last_is_told_before_any_work(folder: Path) -> None:
    home = (folder / "run" / "last").resolve()
    (folder / "run" / "last").unlink()
    home.rename(folder / "run" / "last")
    for resume in (False, True):
        with pytest.raises(UserError, match="last is no link"):
            Trainer(config(), resume=resume)


@pytest.mark.parametrize("kind", ["other", "loop"])
@pytest.mark.parametrize("name", [".lock", "checkpoints", "module", "tokens", "metrics.jsonl"])
def test_what_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run" / name
    path.parent.mkdir()
    if kind == "loop":
        path.symlink_to(name)
    elif name in (".lock", "metrics.jsonl"):
        path.mkdir()
    else:
        path.touch()
    with pytest.raises(UserError, match=name):
        Trainer(config()).train()
    assert not checkpoints(tmp_path / "run")


def test_damaged_weights_are_not_compiled_or_scored(folder: Path) -> None:
    run = folder / "run"
    home = run / "checkpoints" / "step-00000006"
    flipped(home / "weights.safetensors")
    for named in (home, home / "weights.safetensors"):
        with pytest.raises(UserError, match="is damaged: weights.safetensors is not as it was written"):
            find_weights(named)
    for named in (run, run / "last"):
        with pytest.warns(UserWarning, match="step-00000004 is taken"):
            assert find_weights(named).parent.name == "step-00000004"
    (folder / "mine.safetensors").write_bytes((home / "weights.safetensors").read_bytes())
    assert find_weights(folder / "mine.safetensors") == folder / "mine.safetensors"


# --- metrics -------------------------------------------------------------------------------------------------------
def test_metrics_of_a_run_without_a_checkpoint_are_kept(folder: Path) -> None:
    run = folder / "run"
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="nothing to resume"):
        Trainer(config(), resume=True)
    for number in (1, 2):
        trainer = Trainer(config(steps=1))
        with pytest.warns(UserWarning, match=f"it is kept as .*metrics-{number}.jsonl"):
            trainer.train()
        shutil.rmtree(run / "checkpoints")
    assert (run / "metrics-1.jsonl").read_bytes() == before and len(losses(run)) == 1


def test_metrics_that_cannot_be_read_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1, "loss": 2.0}', b"\xff\xfe", b'{"step": 3}', b'{"step": 4, "lo']
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match="metrics.jsonl:2: no record of a step"):
        read_metrics(path)
    with pytest.warns(UserWarning, match="lines that cannot be read"):
        Metrics(path, 3).close()
    assert path.read_bytes() == lines[0] + b"\n" + lines[2] + b"\n"
    assert (tmp_path / "metrics-1.jsonl").read_bytes() == b"\n".join(lines)
    with path.open("ab") as f:
        f.write(b'{"step": 4, "lo')  # cut short by a kill: nobody misses it
    assert len(read_metrics(path)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Metrics(path, 1).close()
    assert path.read_bytes() == lines[0] + b"\n"


# --- the token store -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["tokens.bin", "starts.npy", "meta.json"])
def test_a_damaged_token_store_is_made_again(folder: Path, finished: Path, name: str, damage: Damage) -> None:
    (home,) = (folder / "run" / "tokens").iterdir()
    damage(home / name)
    (folder / "run" / "last").unlink()
    (folder / "run" / "last").symlink_to("checkpoints/step-00000002")
    with pytest.warns(UserWarning, match=r"is damaged \(.+\): the data is tokenised again"):
        Trainer(config(), resume=True).train()
    as_finished(folder / "run", finished)


def test_text_changed_at_equal_size_and_time_is_noticed(folder: Path) -> None:
    text = folder / "text.txt"
    text.write_text(TEXT[:2000])
    about = text.stat()
    before = open_store(folder / "store", [text], "text", byte_tokenizer(), 256)
    text.write_text(TEXT[:1999] + "!")
    os.utime(text, ns=(about.st_atime_ns, about.st_mtime_ns))
    after = open_store(folder / "store", [text], "text", byte_tokenizer(), 256)
    assert after.digest != before.digest and int(after.tokens[-1]) == ord("!")
    assert int(before.tokens[-1]) == ord(TEXT[1999])
    moved = text.rename(folder / "moved.txt")
    made = sorted(os.listdir(folder / "store"))
    assert open_store(folder / "store", [moved], "text", byte_tokenizer(), 256).digest == after.digest
    assert sorted(os.listdir(folder / "store")) == made


def test_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two")

    def written_meanwhile(*args: object) -> bytes:
        text.write_text("one 2.0")
        return b""

    monkeypatch.setattr("cdrmix.train.store.np.save", written_meanwhile)
    (tmp_path / "store").mkdir()
    with pytest.raises((UserError, Damaged)):
        open_store(tmp_path / "store", [text], "text", byte_tokenizer(), 256)
    assert not os.listdir(tmp_path / "store")


# --- full disks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["write_tensors", "write_record", "whole_folder"])
def test_a_full_disk_keeps_the_checkpoint_before(
    folder: Path, finished: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder / "run"
    trainer = Trainer(config(steps=7, save_every=7), resume=True)
    with monkeypatch.context() as patch:

        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(f"cdrmix.train.checkpoint.{where}", full)
        with pytest.raises(UserError, match=r"cannot write the checkpoint of step 7, .*: No space left on device"):
            trainer.train()
    assert find_weights(run).resolve().parent.name == "step-00000006"
    assert not [p for p in run.rglob("*") if p.name.endswith(".part")]
    Trainer(config(), resume=True).train()
    as_finished(run, finished)


def test_the_numbers_of_steps_are_compared_not_their_names(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(), resume=True)
    save = (trainer.module, trainer.optimiser, "{}", {"hash": "", "config": {}, "data": ""}, 2)
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path / "long", step, *save)
    assert [p.name for p in checkpoints(tmp_path / "long")] == ["step-100000000", "step-99999999"]


def test_what_a_starts_array_says_is_used(folder: Path) -> None:
    (home,) = (folder / "run" / "tokens").iterdir()
    assert np.load(home / "starts.npy").tolist() == [0]
