"""Write an artefact: a folder that is whole by itself, and byte-identical for the same inputs.

Input: a lowered program, a target, and optionally a checkpoint and a tokenizer.
Output: `manifest.json`, `weights.safetensors`, `tokenizer.json` and the program's files.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from cdrmix.checkpoints import check_weights, find_weights, reading
from cdrmix.compiler import Lowered, backend, emit, quoting
from cdrmix.diagnose import UserError
from cdrmix.ir.cost import cost
from cdrmix.ir.initial import initial_tensor
from cdrmix.ir.layout import slots
from cdrmix.ir.nodes import Model
from cdrmix.packing import UNDECIDED, Rounded, pack, start, stored
from cdrmix.plain_json import to_json
from cdrmix.progress import doing, over
from cdrmix.runtime.checksum import checksum, file_checksum
from cdrmix.runtime.files import is_inside
from cdrmix.runtime.parts import locked_folder, sweep, sync
from cdrmix.runtime.session import FORMAT
from cdrmix.runtime.tokens import Tokenizer, TokenizerError
from cdrmix.weights import atomic, owners

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"

PART = ".artefact.part"
"""Where an artefact is written, in its folder, before it takes the place of the one that is there."""

UNFINISHED = "unfinished"
"""The format of a manifest while an artefact takes another's place."""

BUILT = frozenset(
    {"libmodel.a", "model.lib", *(f"cdrmix-run{ending}" for ending in ("", ".exe", ".wasm"))}
    | {f"{library}{ending}" for library in ("libmodel.so", "model.dll", "model.wasm") for ending in ("", ".cksum")}
)
"""What `make` leaves in an artefact."""

LARGE = 100_000_000
"""Parameters beyond which making an init takes longer than all else; such a model's is made when it is asked for."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """Weights that were rounded by what they do to a text: their planes, and what the manifest says of it."""

    rounded: Rounded
    about: Mapping[str, Any]


def write_artifact(
    lowered: Lowered,
    target: str,
    out: Path,
    checkpoint: Path | None = None,
    tokenizer: Path | Literal["bytes"] | None = None,
    seed: int | None = None,
    overrides: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    quantised: Quantised | None = None,
) -> list[Path]:
    """Write the folder `out` and return its files.  Without a checkpoint the weights are the spec's init at `seed` (0).

    A large model's init is made only when `seed` is given: its program is worth having alone, in seconds.

    `overrides` are the `--set` options the program was checked with; `verify` needs them to check it again.  `options`
    are those of the target (`compiler.options_of`).  `quantised`: how the weights were rounded, where a text said how.
    """
    model = lowered.program.model
    source = find_weights(checkpoint) if checkpoint else None
    if source:
        check_weights(model, source)
    tokens = _tokenizer(model, tokenizer) if tokenizer else _checkpoints(model, beside(source, "tokenizer.json"))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "give a folder to write to")
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        sweep(out, MANIFEST)  # what else is there may be another's
        if any(path.name != PART for path in out.iterdir()) and not _is_ours(out):
            raise UserError(f"{out} holds other files than an artefact", "give a new folder, or an artefact's")
        with locked_folder(out / PART):
            names = _write(out / PART, lowered, target, source, tokens, seed, overrides or {}, options, quantised)
            _replace(out, names)
    except OSError as e:
        raise UserError(f"cannot write to {out}: {e.strerror}", "give a folder that can be written") from e
    finally:
        if new:
            with suppress(OSError):
                out.rmdir()  # where nothing came of it
    return [out / name for name in names]


def _write(
    out: Path,
    lowered: Lowered,
    target: str,
    source: Path | None,
    tokens: bytes | None,
    seed: int | None,
    overrides: Mapping[str, str],
    options: Mapping[str, Any] | None,
    quantised: Quantised | None,
) -> list[str]:
    """Write all of an artefact into an empty folder; the names of its files, the manifest's last."""
    model = lowered.program.model
    with doing(f"compiling for {target}"):  # after all that can be refused at once: it may take minutes
        files = emit(lowered, target, options)
    own = json.loads(files.pop(MANIFEST, b"{}"))
    if tokens is not None:
        files["tokenizer.json"] = tokens
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic(out / name) as f:
            f.write(content)
        if content.startswith(b"\x7fELF"):
            (out / name).chmod(0o755)
    names, origin = list(files), "none"
    if source is not None or seed is not None or sum(math.prod(w.shape) for w in owners(model)) <= LARGE:
        rounded = quantised.rounded if quantised else UNDECIDED
        _write_weights(lowered, target, out / WEIGHTS, source, seed or 0, own, rounded)
        names.append(WEIGHTS)
        origin = "checkpoint" if source else f"init, seed {seed or 0}"
    manifest = describe(lowered, target, origin, overrides)
    if quantised is not None:
        manifest["quantised"] = dict(quantised.about)
    manifest["tokenizer"] = tokens is not None
    manifest["files"] = {
        name: listed(out / name) for name in over(sorted(names), "computing checksums", len(names), "files")
    }
    write_manifest(out, manifest | own)
    return [*names, MANIFEST]


def _replace(out: Path, names: Sequence[str]) -> None:
    """Put what is in the part in the place of the artefact there.  One that is cut short meanwhile says so."""
    old = [name for name in (*_files_of(out), *BUILT) if name not in names]
    for name in names:
        for path in [out / name, *(out / parent for parent in PurePosixPath(name).parents[:-1])]:
            folder = path != out / name
            if path.is_symlink() and not folder:
                continue  # the link goes, what it leads to stays
            if path.is_symlink() or (path.exists() and not (path.is_dir() if folder else path.is_file())):
                raise UserError(f"{path} is in the way of the artefact's", "remove it, or give a new folder")
    write_manifest(out, {"format": UNFINISHED, "files": dict.fromkeys([*old, *names], {})})
    for name in old:
        with suppress(OSError):
            (out / name).unlink()
        for parent in PurePosixPath(name).parents[:-1]:
            with suppress(OSError):
                (out / parent).rmdir()
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / PART / name).replace(out / name)  # the manifest's comes last
    sync(out)


def _files_of(out: Path) -> list[str]:
    """What the manifest of a folder, perhaps an unfinished one, says is of the artefact there."""
    try:
        files = json.loads((out / MANIFEST).read_bytes()).get("files", {})
    except (OSError, ValueError, AttributeError):
        return []
    inside = [name for name in files if is_inside(name)] if isinstance(files, dict) else []
    return [name for name in inside if not any((out / parent).is_symlink() for parent in PurePosixPath(name).parents)]


def _write_weights(
    lowered: Lowered,
    target: str,
    path: Path,
    source: Path | None,
    seed: int,
    own: Mapping[str, Any],
    rounded: Rounded,
) -> Path:
    """The weights: a checkpoint's or the spec's init; `own` is the manifest of the program."""
    model = lowered.program.model
    by_path = {w.path: w for w in owners(model)}
    with ExitStack() as stack:
        stack.enter_context(quoting(model))
        if source is None:
            make: Callable[[str], np.ndarray] = lambda path: initial_tensor(by_path[path], seed)  # noqa: E731
        else:
            make = stack.enter_context(reading(model, source))
        store(path, target, model, lambda path: _finite(path, make(path)), own, rounded)
    return path


def _finite(path: str, value: np.ndarray) -> np.ndarray:
    """The tensor; one that holds what no program can compute with is refused by name."""
    if wrong := int(value.size - np.count_nonzero(np.isfinite(value))):
        first = tuple(int(n) for n in np.argwhere(~np.isfinite(value))[0])
        at = f", the first at {list(first)}" if first else ""
        raise UserError(
            f"{path}: {wrong} of {value.size} values are NaN or infinite{at}",
            "give a checkpoint from before the training went wrong",
        )
    return value


def store(
    path: Path,
    target: str,
    model: Model,
    make: Callable[[str], np.ndarray],
    own: Mapping[str, Any],
    rounded: Rounded = UNDECIDED,
) -> None:
    """Write a model's tensors, which `make` gives by path, in their encodings and in the target's order; `own` are the
    target's keys of the manifest."""
    to = backend(target)
    pack(path, model, make, to.arrange(own, model), to.starts, rounded, own.get("blocks", ()))


def listed(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "checksum": file_checksum(path)}


def _is_ours(out: Path) -> bool:
    """Whether a folder is an artefact's, also one that was cut short, so that its files may be written over."""
    try:
        found = json.loads((out / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    ours = isinstance(found, dict) and (
        found.get("format") == UNFINISHED or found.keys() >= {"format", "target", "hash"}
    )
    return bool(ours)


def _tokenizer(model: Model, given: Path | Literal["bytes"]) -> bytes:
    """The text of the artefact's tokenizer.json: one that can be read, and whose tokens the model has."""
    if given == "bytes":
        from cdrmix.train.tokenizer import byte_tokenizer

        text, size = byte_tokenizer().to_str().encode(), 256
    elif not given.is_file():
        raise UserError(f"no tokenizer at {given}", "give the tokenizer.json that training used, or `bytes`")
    else:
        text, size = given.read_bytes(), Tokenizer.from_file(given).vocab_size
    if size > model.vocab:
        raise UserError(
            f"the tokenizer has {size} tokens, {model.name} a vocabulary of {model.vocab}",
            "give the tokenizer that the checkpoint was trained with",
        )
    return text


def _checkpoints(model: Model, given: Path | None) -> bytes | None:
    """The same for the one beside a checkpoint, which may be of a kind that only training can read."""
    try:
        return _tokenizer(model, given) if given else None
    except TokenizerError as e:
        warnings.warn(f"the artefact has no tokenizer and can be given tokens only: {e.message}", stacklevel=3)
        return None


def beside(source: Path | None, name: str) -> Path | None:
    """The file of that name next to a checkpoint's weights, or None."""
    found = source.parent / name if source else None
    return found if found and found.is_file() else None


def write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` atomically.  Its last line is the checksum of all before it."""
    text = _json({key: value for key, value in manifest.items() if key != "checksum"}).removesuffix("\n}") + ","
    with atomic(out / MANIFEST) as f:
        f.write(f'{text}\n "checksum": "{checksum([text.encode()])}"\n}}\n'.encode())


def _json(value: Any, indent: int = 1) -> str:
    """JSON with short values on one line, so that a table of launches reads as a table."""
    line = to_json(value)
    if not isinstance(value, dict | list) or (len(line) < 110 - indent and indent > 1) or not value:
        return line
    if isinstance(value, dict):
        rows = [f"{to_json(key)}: {_json(x, indent + 1)}" for key, x in value.items()]
    else:
        rows = [_json(x, indent + 1) for x in value]
    left, right = "{}" if isinstance(value, dict) else "[]"
    pad = "\n" + " " * indent
    return left + pad + ("," + pad).join(rows) + "\n" + " " * (indent - 1) + right


def describe(lowered: Lowered, target: str, weights: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The manifest: what the folder holds, for people and for the runtime."""
    model: Model = lowered.program.model
    total = cost(model).total
    return {
        "format": FORMAT,
        "target": target,
        "engine": backend(target).engine,
        "model": model.name,
        "hash": lowered.program.hash,
        "spec": dict(model.sources),
        "set": dict(overrides),
        "settings": {
            name: str(value) if not isinstance(value, int | float | bool) else value
            for name, value in model.settings.items()
        },
        "cost": {
            "weight_bytes_read": total.read_bytes(),
            "state_bytes": total.state_bytes(),
            "flops": total.flops,
        },
        "dtype": "f32",
        "stored": lowered.stored,
        "encode": list(lowered.rules),
        "weights": weights,
        **layout(model),
        "notes": list(lowered.notes),
        "verified": {"how": "not verified"},
    }


def layout(model: Model) -> dict[str, Any]:
    """What the manifest says of a model's sizes, state and tensors."""
    return {
        "vocab": model.vocab,
        "width": model.width,
        "state": [
            {
                "path": s.path,
                "kind": s.kind,
                "shape": list(s.shape),
                "banks": list(s.place.banks),
                "start": start(s),
            }
            for s in slots(model)
        ],
        "tensors": [{"path": w.path, "shape": list(w.shape), "stored": stored(w)} for w in owners(model)],
    }
