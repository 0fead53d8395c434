"""What each command of the command line does.

Input: parsed arguments.  Output: text or JSON on stdout, files where the user said, an exit code (None is 0).
Heavy libraries are imported by the command that needs them, so that `check` starts at once.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdrmix.check import load
from cdrmix.compiler import PASSES, TARGETS, lower, options_of
from cdrmix.diagnose import UserError, did_you_mean
from cdrmix.passes.encodings import encodings_asked
from cdrmix.plain_json import to_json
from cdrmix.progress import doing

if TYPE_CHECKING:
    from cdrmix.ir.nodes import Model
    from cdrmix.train.ranks import Ranks

SHOWN = 5
"""How many of a long list are shown."""


def overrides_of(texts: list[str]) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping."""
    found = {}
    for text in texts:
        name, eq, value = text.partition("=")
        if not eq or not name.strip():
            raise UserError(f"--set {text}: no `=`", "write --set name=value, for instance --set layers=8")
        found[name.strip()] = value.strip()
    return found


def _load(a: Namespace) -> Model:
    if a.spec.suffix in (".yaml", ".yml"):
        raise UserError(f"{a.spec} is a config, not a spec", "give the .cdr file that its `spec` names")
    return load(a.spec, overrides_of(a.set), model=a.model)


def run_check(a: Namespace) -> None:
    """`cdrmix check`: load and lower, so that notes are said too."""
    began = time.perf_counter()
    model = _load(a)
    lowered = lower(model)
    if a.json:
        print(to_json({"errors": [], "model": model.name, "notes": list(lowered.notes)}))
        return
    print(
        f"{model.name}: right ({len(model.lines)} lines, {len(model.cells)} ops, {time.perf_counter() - began:.2f} s)"
    )
    for note in lowered.notes:
        print(f"note: {note}")


def _backends_options(a: Namespace) -> dict[str, Any]:
    """What was given, or None, for the options of backends that a command has."""
    names = {option.name for backend in TARGETS.values() for option in backend.options}
    return {name: value for name, value in vars(a).items() if name in names}


def run_inspect(a: Namespace) -> None:
    """`cdrmix inspect`."""
    from cdrmix.inspect import Asked, describe, describe_json, describe_on

    given = _backends_options(a)
    if a.target is None and (first := next((name for name, value in given.items() if value is not None), "")):
        known = ", ".join(name for name, backend in TARGETS.items() if backend.inspect)
        raise UserError(f"--{first} without a target", f"name one that has a budget: --target {known}")
    model, asked = _load(a), Asked(a.quant, tuple(a.encode))
    if a.target is not None:
        options = options_of(a.target, given, *encodings_asked(a.quant or "f32", a.encode))
        text = describe_on(model, a.target, options, asked)
        print(to_json({"model": model.name, "target": a.target, "budget": text.split("\n")}) if a.json else text)
        return
    print(to_json(describe_json(model, asked), indent=1) if a.json else describe(model, a.ops, asked))


def run_compile(a: Namespace) -> None:
    """`cdrmix compile`."""
    from cdrmix.artifact import write_artifact

    if a.dump_after and a.dump_after not in PASSES:
        raise UserError(
            f"no pass `{a.dump_after}`", did_you_mean(a.dump_after, PASSES) or f"the passes are {', '.join(PASSES)}"
        )

    def dump(name: str, text: str) -> None:
        if name == a.dump_after:
            print(text)

    options = options_of(a.target, _backends_options(a), *encodings_asked(a.quant, a.encode))
    lowered = lower(_load(a), dump, a.quant, rules=a.encode)
    tokenizer = Path(a.tokenizer) if a.tokenizer and a.tokenizer != "bytes" else a.tokenizer
    files = write_artifact(lowered, a.target, a.out, a.checkpoint, tokenizer, a.seed, overrides_of(a.set), options)
    for note in lowered.notes:
        print(f"note: {note}", file=sys.stderr)
    if not any(f.name == "weights.safetensors" for f in files):
        print("note: no weights: give --checkpoint, or --seed 0 for the spec's init, to have them", file=sys.stderr)
    print(f"{a.out}: {len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB", file=sys.stderr)


def run_quantize(a: Namespace) -> None:
    """`cdrmix quantize`."""
    from cdrmix.quantize.quantise import Asked, quantise
    from cdrmix.quantize.source import find_source

    source = find_source(a.source, a.spec, overrides_of(a.set), a.model)
    tokenizer = Path(a.tokenizer) if a.tokenizer and a.tokenizer != "bytes" else a.tokenizer
    asked = Asked(a.data, a.field, a.tokens, a.target, a.quant, a.encode, a.max_loss / 100, tokenizer, a.threads)
    found = quantise(source, asked, a.out)
    if a.json:
        print(to_json(found.as_data(), indent=1))
        return
    print(found.text_of())
    rules = "".join(f" --encode '{rule}'" for rule in found.rules)
    print(f"compile holds its matrices so with --quant {a.quant}{rules}; only quantize rounds them by a text")


def run_doctor(a: Namespace) -> int:
    """`cdrmix doctor`."""
    from cdrmix.doctor import examine, tell

    found = examine(a.target or TARGETS)
    if a.json:
        print(to_json([asdict(f) for f in found], indent=1))
    else:
        print(tell(found))
    return 1 if any(f.missing for f in found) else 0


def run_verify(a: Namespace) -> int:
    """`cdrmix verify`."""
    from cdrmix.verification import verify_artifact

    found = verify_artifact(a.artefact, a.tokens, a.tolerance, a.random_weights)
    if a.json:
        print(to_json(found, indent=1))
    else:
        for name, error in found["errors"].items():
            print(f"{error:10.2e}  {name}")
        ran = f"{found['how']}: {found['tokens']} tokens, weights: {found['weights']}"
        print(f"{ran}, worst relative RMS error {found['worst']:.2e}")
        if not found["within"]:
            print(f"wrong: the error is above the tolerance of {found['tolerance']:g}", file=sys.stderr)
        if found["unrecorded"]:
            print(f"note: the result is not in the manifest: {found['unrecorded']}", file=sys.stderr)
    return 0 if found["within"] else 3


def run_bench(a: Namespace) -> None:
    """`cdrmix bench`."""
    from cdrmix.speed import describe, measure

    found = measure(a.artefact, a.prompt, a.tokens, a.streams, a.rounds, a.threads)
    print(to_json(asdict(found), indent=1) if a.json else describe(found))


def run_generate(a: Namespace) -> None:
    """`cdrmix generate`: print the continuation as it comes."""
    from cdrmix.runtime.generation import Writer
    from cdrmix.runtime.sampling import Sampling
    from cdrmix.runtime.session import Session, read_manifest
    from cdrmix.runtime.tokens import Tokenizer

    path = a.artefact / "tokenizer.json"
    if path.name not in read_manifest(a.artefact)["files"]:
        raise UserError(
            f"{a.artefact} has no tokenizer", "compile it with --tokenizer FILE or bytes, or from a checkpoint"
        )
    how = Sampling(a.temperature, a.top_p, a.top_k, a.repetition_penalty, a.seed)
    with doing("opening the artefact"):
        session = Session.open(a.artefact, a.threads)
    with session:
        tokenizer = Tokenizer.from_file(path)
        if tokenizer.vocab_size > session.vocab:
            raise UserError(
                f"{path} has {tokenizer.vocab_size} tokens, the model {session.vocab}",
                "compile the spec again with the tokenizer it was trained with",
            )
        if a.load_state:
            session.load(a.load_state)
        writer = Writer(session, tokenizer, how)
        decoder = writer.decoder()
        prompt = _prompt(a.prompt)
        writer.read(prompt, a.special)
        print(decoder.push(prompt), end="", flush=True)
        for piece in writer.write(a.count, a.stop):
            print(decoder.push(piece), end="", flush=True)
        print("" if a.save_state else decoder.flush())  # what is not yet a character goes on with the state
        if a.save_state:
            session.save(a.save_state)


def _prompt(text: str) -> bytes:
    """The bytes as they were typed, UTF-8 or not, or the standard input's for -."""
    if text != "-":
        return os.fsencode(text)
    return sys.stdin.buffer.read()


def run_train(a: Namespace) -> int:
    """`cdrmix train`: the run, in this process or in those that `torchrun` has started with it; or their start."""
    if a.nproc > 1:
        from cdrmix.train.config import TrainConfig, read_config
        from cdrmix.train.launch import launch

        read_config(TrainConfig, a.config, a.set)  # a mistake there is told at once
        return launch(a.nproc, a.restarts, [str(a.config), *(f"--set={x}" for x in a.set), *["--resume"] * a.resume])
    from cdrmix.train.ranks import join, lost_one

    if a.restarts:
        raise UserError("--restarts is of the processes of --nproc", "give --nproc 2 or more, or leave it out")

    ranks = join()
    try:
        with ranks.quiet():
            _train(a, ranks)
    except (Exception, KeyboardInterrupt) as e:
        if not ranks.may_tell():
            if isinstance(e, KeyboardInterrupt):
                return 130
            time.sleep(5)  # whoever ends first ends all: that is to be the one that tells
            return 1
        if ranks.size > 1 and lost_one(e):
            raise UserError(
                f"process {ranks.rank} lost another one", f"{a.config}: --resume goes on from the last checkpoint"
            ) from e
        raise
    ranks.leave()
    return 0


def _train(a: Namespace, ranks: Ranks) -> None:
    from cdrmix.runs import checkpoints
    from cdrmix.train.config import TrainConfig, read_config
    from cdrmix.train.loop import Trainer
    from cdrmix.train.ranks import restarted

    config = read_config(TrainConfig, a.config, a.set)
    resume = a.resume or (restarted() and bool(checkpoints(config.out)))
    with doing("preparing the run"):
        trainer = Trainer(config, resume, ranks)
    count = sum(p.numel() for p in trainer.module.parameters())
    tokens = len(trainer.train_data.tokens)
    many = f", {ranks.size} processes" if ranks.size > 1 else ""
    print(
        f"{count / 1e6:.2f} M parameters, {tokens / 1e6:.2f} M tokens of data, from step {trainer.step}{many}",
        file=sys.stderr,
    )
    trainer.train()
    print(f"checkpoint: {config.out / 'last'}", file=sys.stderr)


def run_plan(a: Namespace) -> int:
    """`cdrmix plan`: a run that does not fit is told with what would help."""
    from cdrmix.plan.cards import card
    from cdrmix.plan.mesh import mesh_of
    from cdrmix.plan.report import as_data, describe, plan
    from cdrmix.train.config import TrainConfig, read_config

    on, config = card(a.gpu), read_config(TrainConfig, a.config, a.set)
    mesh = mesh_of(a.gpus, a.replicate, a.shard, config.mesh)
    with doing("planning the run"):
        found = plan(config, on, mesh, a.efficiency, a.price)
    print(to_json(as_data(found), indent=1) if a.json else describe(found))
    if not found.fits:
        needs, has = found.memory.total / 1e9, on.memory / 1e9
        print(f"error: a GPU needs {needs:.1f} GB and has {has:.0f}", file=sys.stderr)
        print(f"  = help: {', or '.join(found.remedies)}", file=sys.stderr)
    return 0 if found.fits else 1


def run_eval(a: Namespace) -> None:
    """`cdrmix eval`."""
    from cdrmix.train.config import EvalConfig, read_config
    from cdrmix.train.evaluate import score_checkpoint

    with doing("scoring"):
        score = score_checkpoint(read_config(EvalConfig, a.config, a.set))
    bits = score.bits_per_byte
    if a.json:
        found = {
            "loss": score.loss,
            "perplexity": score.perplexity,
            "bits_per_byte": bits,
            "tokens": score.tokens,
            "bytes": score.size,
        }
        print(to_json(found))
        return
    print(f"loss {score.loss:.4f} nats a token, perplexity {score.perplexity:.2f}, {score.tokens} tokens")
    print(f"bits per byte {bits:.4f}, {score.size} bytes")


def run_tokenizer_train(a: Namespace) -> None:
    """`cdrmix tokenizer train`."""
    from cdrmix.train.tokenizer import train_tokenizer
    from cdrmix.weights import atomic

    with doing("training the tokenizer"):
        tokenizer = train_tokenizer(a.data, a.vocab, a.field)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(a.out) as f:
        f.write(tokenizer.to_str().encode())
    print(f"{a.out}: {tokenizer.get_vocab_size()} tokens", file=sys.stderr)
    if tokenizer.get_vocab_size() < a.vocab:
        print(f"note: the text has no more pairs to merge; asked for {a.vocab}", file=sys.stderr)


def run_tokenizer_encode(a: Namespace) -> None:
    """`cdrmix tokenizer encode`."""
    from cdrmix.train.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("bytes" if a.tokenizer == "bytes" else Path(a.tokenizer))
    tokenizer.encode_special_tokens = not a.special  # as training reads text
    try:
        a.text.encode()
    except UnicodeEncodeError as e:
        raise UserError("the text is not UTF-8", "give it in UTF-8") from e
    print(*tokenizer.encode(a.text, add_special_tokens=False).ids)


def run_data_from_directory(a: Namespace) -> None:
    """`cdrmix data from-directory`."""
    from cdrmix.train.corpus import from_directory

    only = [suffix if suffix.startswith(".") else f".{suffix}" for suffix in a.only]
    with doing("collecting the files"):
        done = from_directory(a.tree, a.out, a.shard_mb << 20, a.exclude, only)
    if a.json:
        skipped = [{"file": str(p), "why": why} for p, why in done.skipped]
        report: dict[str, Any] = {
            "shards": [str(p) for p in done.shards],
            "documents": done.documents,
            "skipped": skipped,
        }
        print(to_json(report))
        return
    for path, why in done.skipped[:SHOWN]:
        print(f"left out {path}: {why}", file=sys.stderr)
    if len(done.skipped) > SHOWN:
        print(f"left out {len(done.skipped) - SHOWN} more; --json lists them all", file=sys.stderr)
    made = f"{done.documents} documents, {done.size / 1e6:.1f} MB in {len(done.shards)} shards"
    print(f"{a.out}: {made}, {len(done.skipped)} left out")


def run_data_split(a: Namespace) -> None:
    """`cdrmix data split`."""
    from cdrmix.train.corpus import split

    first: Path = a.data[0]
    out = a.out or first.with_name(f"{first.stem if first.is_file() else first.name}-split")
    with doing("dividing the documents"):
        counts = split(a.data, out, a.ratio, a.field)
    print(to_json(counts) if a.json else f"{out}: {counts['train']} train, {counts['eval']} eval documents")
