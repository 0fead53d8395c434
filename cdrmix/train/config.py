"""The configuration of a training run: YAML in, a checked `TrainConfig` out.

Unknown keys, wrong types and values out of range are refused with the file, the key and what was expected; so are
numbers that are not finite, and texts that no file or folder can be called.
Paths are relative to the folder the command runs in; a spec may also be a name in the installed `spec/` folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from cdrmix.diagnose import UserError, did_you_mean

Positive = Annotated[int, Field(gt=0, lt=1 << 63)]
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]  # what torch's generators take
Threads = Annotated[int, Field(gt=0, le=1024)]  # many more, and a process dies as it starts them
Paths = list[Path]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """Where the text is: files or folders of .txt, .jsonl (`{"text": …}` or `{"tokens": […]}` a line), and others."""

    train: Paths
    eval: Paths = []
    field: str = "text"

    @field_validator("train", "eval", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value


class OptimConfig(_Strict):
    """The optimiser and its learning rate.

    `muon` moves the matrices between the first and the last line by Muon, at `muon_lr`, and all else by AdamW.
    `cosine`, `linear`: warm up, then fall.  `wsd`: warm up, stay, and fall linearly over the last `decay` share of the
    steps (Hu et al. 2024, MiniCPM).  All reach `final` times `lr` at the last step.  `ema` is the decay of an average
    of the weights; 0: none is kept.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(3e-3, gt=0)
    muon_lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    warmup: int = Field(50, ge=0, lt=1 << 63)
    final: float = Field(0.1, ge=0, le=1)
    decay: float = Field(0.2, gt=0, le=1)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    eps: float = Field(1e-10, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip: float = Field(1.0, gt=0)
    z_loss: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)


class MeshConfig(_Strict):
    """How the processes of a run share its parameters: `replicate` groups that each hold all of them, in which each of
    `shard` processes keeps a share.  Their product is how many there are; `auto` is what is left.
    """

    replicate: Positive = 1
    shard: Positive | Literal["auto"] = "auto"

    @property
    def shards(self) -> int | None:
        """`shard`, None where it is what is left."""
        return None if self.shard == "auto" else self.shard


class _OfSpec(_Strict):
    """A config with a spec; `options` say how each setting of the spec was given, for messages."""

    _options: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def options(self) -> dict[str, str]:
        return self._options


class TrainConfig(_OfSpec):
    """One training run.  `batch` sequences of `context` tokens make a step, in `accumulate` equal parts.

    `checkpoint` holds the weights to start from.  With `carry_state` the sequences are lanes through documents, and a
    sequence begins with the state that the one before it in its lane ended with.  `precision` is the type of
    activations, `compile` whether their graph goes through torch's compiler, `recompute` what is computed again in the
    backward pass rather than kept, `mesh` how parameters lie over the processes.
    """

    spec: Path
    set: dict[str, str] = {}
    checkpoint: Path | None = None
    tokenizer: Path | Literal["bytes"] = "bytes"
    data: DataConfig
    out: Path
    steps: Positive
    batch: Positive = 16
    context: Positive | None = None
    accumulate: Positive = 1
    carry_state: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "f32", "bf16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    recompute: Literal["none", "layers"] = "none"
    mesh: MeshConfig = MeshConfig()
    seed: Seed = 0
    optim: OptimConfig = OptimConfig()
    log_every: Positive = 10
    eval_every: Positive = 500
    eval_tokens: Positive = 65_536
    save_every: Positive = 500
    keep: Positive = 2
    threads: Threads | None = None

    @field_validator("set", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Settings are `.cdr` expressions; YAML's numbers and booleans become their text."""
        if not isinstance(value, dict):
            return value
        text = {True: "true", False: "false"}
        return {
            k: text[v] if isinstance(v, bool) else str(v) if isinstance(v, int | float) else v for k, v in value.items()
        }

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _bytes_or_path(cls, value: Any) -> Any:
        return value if value == "bytes" else Path(value) if isinstance(value, str) else value


class EvalConfig(_OfSpec):
    """One evaluation: a checkpoint's bits per byte on held-out text, `context` tokens at a time in `rows` lanes."""

    spec: Path
    set: dict[str, str] = {}
    checkpoint: Path
    tokenizer: Path | Literal["bytes"] | None = None
    data: Paths
    field: str = "text"
    context: Positive = 512
    rows: Positive = 8
    threads: Threads | None = None

    _text = field_validator("set", mode="before")(TrainConfig._as_text.__func__)  # type: ignore[attr-defined]
    _many = field_validator("data", mode="before")(DataConfig._one_or_many.__func__)  # type: ignore[attr-defined]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-6` as a string; this loader reads it as the number it is."""


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\.inf|\.nan)$", re.IGNORECASE),
    list("-+0123456789."),
)
# integers keep their own rule, which must be tried first
for _first, _rules in _Loader.yaml_implicit_resolvers.items():
    _rules.sort(key=lambda rule: rule[0] != "tag:yaml.org,2002:int")


LARGEST = 1 << 20
"""Bytes a config may have."""

Config = TypeVar("Config", TrainConfig, EvalConfig)


def read_config(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply `key=value` overrides (dotted keys, YAML values).  Raises `UserError`."""
    if path.suffix == ".cdr":
        raise UserError(f"{path} is a spec, not a config", "a config names it as its `spec`; see configs/")
    try:
        with path.open("rb") as f:
            text = f.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UserError(f"{path} is more than {LARGEST >> 20} MB: no config", "configs/ holds worked examples")
        data = yaml.load(text.decode("utf-8-sig"), _Loader)
    except FileNotFoundError as e:
        raise UserError(f"no config at {path}", "configs/ holds worked examples") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # ValueError: not UTF-8, or a date that is none
        raise UserError(f"{path} is not YAML: {e}", "see configs/ for worked examples") from e
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a mapping of settings", "see configs/ for worked examples")
    for override in overrides:
        _apply(data, override)
    if wrong := list(_odd(data, "", set())):
        raise UserError(f"{path}:\n" + "\n".join(wrong), "docs/training.md lists every key")
    try:
        config = kind.model_validate(data)
        given = {text.partition("=")[0].strip() for text in overrides}
        config._options = {
            name: f"--set set.{name}" if f"set.{name}" in given else f"{path}: set.{name}" for name in config.set
        }
        return config
    except ValidationError as e:
        raise UserError(
            f"{path}:\n" + "\n".join(_explain(kind, x) for x in e.errors()), "docs/training.md lists every key"
        ) from e


def _apply(data: dict[str, Any], override: str) -> None:
    key, eq, text = override.partition("=")
    if not eq:
        raise UserError(f"--set {override}: no `=`", "write --set key=value, for instance --set optim.lr=1e-3")
    *groups, last = key.strip().split(".", 1) if key.startswith("set.") else key.strip().split(".")
    place = data
    for group in groups:
        place = place.setdefault(group, {})
        if not isinstance(place, dict):
            raise UserError(
                f"--set {override}: `{group}` is not a group of settings", "docs/training.md lists every key"
            )
    try:
        place[last] = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"--set {override}: the value is not YAML", "quote it") from e


def _odd(value: Any, key: str, seen: set[int]) -> Iterator[str]:
    """What no setting can be, wherever it stands; what an alias of YAML repeats is looked at once."""
    match value:
        case dict() | list() if id(value) not in seen:
            seen.add(id(value))
            for name, x in value.items() if isinstance(value, dict) else enumerate(value):
                inner = f"{key}.{name}" if key else str(name)
                yield from _odd(name, inner, seen)
                yield from _odd(x, inner, seen)
        case float() if not math.isfinite(value):
            yield f"  {key}: a finite number is expected (it is {value})"
        case "" if not key.startswith("set."):
            yield f"  {key}: a text is expected (it is empty)"
        case str() if "\0" in value:
            yield f"  {key}: holds a NUL character (it is {value!r})"
        case str() if any("\ud800" <= c <= "\udfff" for c in value):
            yield f"  {key}: not UTF-8 (it is {value!r})"


def _explain(kind: type[BaseModel], error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"optim": OptimConfig, "data": DataConfig, "mesh": MeshConfig}
        known = models.get(str(error["loc"][0]), kind) if len(error["loc"]) > 1 else kind
        hint = did_you_mean(str(error["loc"][-1]), known.model_fields)
        if not hint and len(error["loc"]) == 1:
            other, command = (EvalConfig, "eval") if kind is TrainConfig else (TrainConfig, "train")
            there = where in other.model_fields
            hint = f"`cdrmix {command}` has it" if there else f"a setting of the spec is `set.{where}`"
        return f"  {where}: no such setting{' — ' + hint if hint else ''}"
    if error["type"] == "missing":
        return f"  {where}: missing"
    if error["type"] in ("model_type", "dict_type"):
        return f"  {where}: a group of settings is expected (it is {error['input']!r})"
    return f"  {where}: {error['msg'][:1].lower()}{error['msg'][1:]} (it is {error['input']!r})"
