"""Training configs: every mistake names its key and, where there is one, the near name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.check import load
from cdrmix.diagnose import CompileError, UserError, explain
from cdrmix.train.config import EvalConfig, OptimConfig, TrainConfig, read_config

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
        ("optim: {schedule: step}", "optim.schedule: input should be 'cosine', 'linear' or 'wsd'"),
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


@pytest.mark.parametrize("text", ["spec: 2024-13-45", "a: " + "[" * 1000])
def test_yaml_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match="is not YAML"):
        read_config(TrainConfig, tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("{}")
    with pytest.raises(UserError, match="is not YAML"):
        read_config(TrainConfig, tmp_path / "c.yaml", [f"spec={text.partition(': ')[2]}"])


# --- numbers and texts ----------------------------------------------------------------------------------------------
RUN = "spec: s.cdr\ndata: {train: t.txt}\nout: run\nsteps: 10\n"


SCORE = "spec: s.cdr\ncheckpoint: run\ndata: t.txt\n"


NUMBERS = ["steps", "batch", "context", "accumulate", "seed", "log_every", "eval_every", "eval_tokens", "save_every"]


NUMBERS += ["keep", "threads", "set.x", *(f"optim.{name}" for name in OptimConfig.model_fields if name != "schedule")]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    ("kind", "key"),
    [*((TrainConfig, key) for key in NUMBERS), *((EvalConfig, key) for key in ("context", "rows", "threads", "set.x"))],
)
def test_every_number_is_finite(tmp_path: Path, kind: type, key: str, value: str) -> None:
    (tmp_path / "c.yaml").write_text(RUN if kind is TrainConfig else SCORE)
    with pytest.raises(UserError, match=rf"{key}: a finite number is expected \(it is -?(inf|nan)\)"):
        read_config(kind, tmp_path / "c.yaml", [f"{key}={value}"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("seed=18446744073709551616", "seed: input should be less than"),
        ("threads=100000", "threads: input should be less than or equal to 1024"),
        ("steps=99999999999999999999", "steps: input should be less than"),
        ('data.field="\\ud800"', "data.field: not UTF-8"),
        ('data.train="a\\0b"', "data.train: holds a NUL"),
        ('data.train=[a, "a\\0b"]', "data.train.1: holds a NUL"),
        ('out="\\0"', "out: holds a NUL"),
        ('set={"\\udfff": 1}', "not UTF-8"),
        ("set=&x {y: *x}", "set"),
        ("out=''", "out: a text is expected"),
        ("data.train=[a, '']", "data.train.1: a text is expected"),
    ],
)
def test_what_nothing_can_be_called_is_refused(tmp_path: Path, change: str, says: str) -> None:
    (tmp_path / "c.yaml").write_text(RUN)
    with pytest.raises(UserError) as e:
        read_config(TrainConfig, tmp_path / "c.yaml", [change])
    assert says in e.value.message
