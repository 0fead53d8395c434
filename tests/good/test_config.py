"""Training configs: every mistake names its key and, where there is one, the near name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.check import load
from cdrmix.diagnose import CompileError, UserError, explain
from cdrmix.train.config import OptimConfig, TrainConfig, read_config
from cdrmix.train.optimiser import rate

GOOD = """
spec: spec/tiny.cdr
set: {layers: 2, name: '"text"', flag: true, scale: 1e-6}
data: {train: text.txt}
out: runs/x
steps: 10
optim: {lr: 1e-3, eps: 1e-18}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_yaml_becomes_a_config(tmp_path: Path) -> None:
    config = read_config(TrainConfig, write(tmp_path, GOOD), ["optim.lr=2e-4", "set.moe.top_k=3", "batch=4"])
    assert config.optim.lr == 2e-4 and config.optim.eps == 1e-18 and config.batch == 4
    assert config.set == {"layers": "2", "name": '"text"', "flag": "true", "scale": "1e-06", "moe.top_k": "3"}
    assert config.data.train == [Path("text.txt")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("steps: many", "steps: input should be a valid integer"),
        ("steps: -1", "steps: input should be greater than 0"),
        ("bacth: 3", "bacth: no such setting — did you mean `batch`?"),
        ("optim: {beta3: 1}", "optim.beta3: no such setting"),
        ("data: {}", "data.train: missing"),
        ("optim: {schedule: linear}", "optim.schedule: input should be 'cosine' or 'wsd'"),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, change: str, says: str) -> None:
    key = change.split(":")[0]
    kept = "".join(line + "\n" for line in GOOD.splitlines() if not line.startswith(key))
    with pytest.raises(UserError) as e:
        read_config(TrainConfig, write(tmp_path, kept + change))
    assert says in e.value.message


@pytest.mark.parametrize(("text", "says"), [("- a\n", "not a mapping"), ("a: [", "is not YAML"), ("", "not a mapping")])
def test_other_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_config(TrainConfig, write(tmp_path, text))
    with pytest.raises(UserError, match="no config at"):
        read_config(TrainConfig, tmp_path / "absent.yaml")


def test_overrides_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(UserError, match="no `=`"):
        read_config(TrainConfig, path, ["steps"])
    with pytest.raises(UserError, match="not a group"):
        read_config(TrainConfig, path, ["steps.x=1"])


def test_schedules() -> None:
    cosine = OptimConfig(schedule="cosine", warmup=10, final=0.1)
    wsd = OptimConfig(schedule="wsd", warmup=10, final=0.0, decay=0.25)
    assert [rate(c, 4, 100) for c in (cosine, wsd)] == [0.5, 0.5]
    assert rate(cosine, 10, 101) == 1 and rate(cosine, 55, 101) == pytest.approx(0.55)
    assert rate(cosine, 100, 101) == pytest.approx(0.1)
    assert rate(wsd, 74, 100) == 1 and rate(wsd, 87, 100) == pytest.approx(0.48) and rate(wsd, 99, 100) == 0


def test_a_mistake_in_a_setting_of_the_spec_names_the_config_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "spec: tiny.cdr\nset: {d_modle: 64, mixer: 'rwkv7(N=24)', context: x}\ndata: {train: a}\nout: b\nsteps: 2\n"
    )
    config = read_config(TrainConfig, path, ["set.layres=3"])
    with pytest.raises(CompileError) as error:
        load(config.spec, config.set, options=config.options)
    said = explain(error.value)
    assert f"error[E0702]: {path}: set.d_modle: no such setting" in said and "did you mean `d_model`?" in said
    assert "error[E0702]: --set set.layres: no such setting" in said and "did you mean `layers`?" in said
    assert f"--> {path}: set.context:1:" in said
    assert f"= used: {path}: set.mixer=rwkv7(N=24)" in said and "128 divides by 1, 2, 4, 8" in said
