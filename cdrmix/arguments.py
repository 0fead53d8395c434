"""The command line's arguments: every command, its options and what its help teaches.

Input: none.  Output: the parser; parsed arguments hold `run`, the function of `commands` that does the work.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cdrmix import commands
from cdrmix.compiler import PASSES, TARGETS
from cdrmix.ir.backend import Backend, Option
from cdrmix.plan.cards import CARDS, EFFICIENCY
from cdrmix.runtime.encodings import ENCODINGS

_ABOUT = """A compiler for streaming language models.  Write what happens to one token (.cdr), train it, stream it.

  cdrmix check spec/tiny.cdr                               is the spec right?
  cdrmix inspect spec/tiny.cdr                             what does it cost, how is each state computed?
  cdrmix data split TEXT -o DATA                           documents to train on, documents to hold out
  cdrmix tokenizer train DATA/train.jsonl -o tokenizer.json
  cdrmix train configs/train-tiny.yaml                     a checkpoint from text; --resume goes on
  cdrmix plan configs/train-8b.yaml --gpus 64 --gpu h100   does it fit, how long does it take, what bounds it?
  cdrmix eval configs/eval-tiny.yaml                       bits per byte of held-out text
  cdrmix compile spec/tiny.cdr --target cpu --checkpoint RUN -o DIR
  cdrmix quantize RUN --data TEXT --quant i4 -o DIR        the same in fewer bits, at a loss that you say
  cdrmix doctor                                            what do the targets need on this machine?
  cdrmix verify DIR                                        the artefact against the definition
  cdrmix bench DIR                                         how fast is it on this machine?
  cdrmix generate DIR --prompt "def "                      stream from the artefact"""

_EXITS = """exit codes: 0 done, 1 a mistake in a spec, config, data or artefact, 2 a command line that cannot be read,
3 verify found the artefact wrong, 130 interrupted"""


LARGEST = (1 << 31) - 1
"""Of a count that goes into a program."""


def _utf8(text: str) -> str:
    """The type of an option that is a text of UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise argparse.ArgumentTypeError("not UTF-8") from e
    return text


def _whole(most: int, least: int = 0) -> Callable[[str], int]:
    """The type of an option that is a plain decimal number in a range, as `cdrmix-run` reads it."""

    def number(text: str) -> int:
        if not re.fullmatch(r"\+?[0-9]+", text) or len(text) > 40 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"`{text}`: give {least} or more, at most {most}")
        return int(text)

    return number


def _real(text: str, fits: Callable[[float], bool], want: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) or not fits(float(text)):
        raise argparse.ArgumentTypeError(f"`{text}`: give {want}")
    return float(text)


def _nonnegative(text: str) -> float:
    """The type of an option that is a finite number from 0 on."""
    return _real(text, lambda x: 0 <= x < math.inf, "0 or more, and a finite number")


def _positive(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    return _real(text, lambda x: 0 < x < math.inf, "a finite number above 0")


def _share(text: str) -> float:
    """The type of an option that is a probability above 0."""
    return _real(text, lambda x: 0 < x <= 1, "a number above 0, at most 1")


def _text(text: str) -> bytes:
    """The type of an option that is some text, as it was typed, UTF-8 or not."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text: give at least a character")
    return os.fsencode(text)


LONGEST, DEEPEST = 4095, 500
"""Bytes of a path that Linux opens, and how many folders deep one may be."""


def _path(text: str) -> Path:
    """The type of an option that is a path."""
    if "\0" in text:
        raise argparse.ArgumentTypeError("the path holds a NUL character")
    if len(os.fsencode(text)) > LONGEST:
        raise argparse.ArgumentTypeError(f"the path is longer than {LONGEST} bytes")
    path = Path(text)
    if len(path.parts) > DEEPEST:
        raise argparse.ArgumentTypeError(f"the path is more than {DEEPEST} folders deep")
    return path


def _names(text: str) -> tuple[str, ...]:
    """The type of an option that is a list of names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _counts(text: str) -> tuple[int, ...]:
    """The type of an option that is a list of numbers from 1 on."""
    return tuple(sorted({_whole(LARGEST, 1)(part) for part in text.split(",")}))


_KINDS: Mapping[str, Callable[[str], Any]] = {
    "text": str, "texts": _names, "count": _whole(LARGEST, 1), "counts": _counts,
}  # fmt: skip
"""The type of each kind of a backend's options."""


def _backends(p: argparse.ArgumentParser, kept: Callable[[Backend], bool] = lambda backend: True) -> None:
    """The options of the backends that are kept, each once."""
    found: dict[str, Option] = {}
    for option in (option for backend in TARGETS.values() if kept(backend) for option in backend.options):
        if option != found.setdefault(option.name, option):
            raise ImportError(f"two backends have an option --{option.name}, and not the same one: rename one")
    for o in found.values():
        each = o.default if isinstance(o.default, tuple) else (o.default,)
        usual = "" if o.default is None else f" ({','.join(map(str, each))})"
        p.add_argument(f"--{o.name}", type=_KINDS[o.kind], metavar=o.shown, help=o.help + usual)


def make_parser() -> argparse.ArgumentParser:
    """Every command and option."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("cdrmix", description=_ABOUT, epilog=_EXITS, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"cdrmix {version('cdrmix')}")
    todo = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, example: str, among: Any = todo, front: str = "run_") -> argparse.ArgumentParser:
        about = help[:1].upper() + help[1:].rstrip(".") + "."
        epilog = f"example: {example}"
        made: argparse.ArgumentParser = among.add_parser(
            name, help=help, description=about, epilog=epilog, formatter_class=raw
        )
        made.set_defaults(run=getattr(commands, front + name.replace("-", "_")))
        return made

    def spec(p: argparse.ArgumentParser) -> None:
        p.add_argument("spec", type=_path, help="a .cdr file, or a name in the installed spec folder")
        p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of the spec")
        p.add_argument("--model", help="the model to take, where a file has several (default: the last)")

    def held(p: argparse.ArgumentParser, default: str | None, about: str) -> None:
        p.add_argument("--quant", choices=tuple(ENCODINGS), default=default, help=about)
        one = (
            "store these matrices otherwise: 'layer.*.att.W*=i8', 'head.W=f32'; repeatable, the last that matches holds"
        )
        p.add_argument("--encode", action="append", default=[], metavar="PATHS=ENCODING", help=one)

    def artefact(p: argparse.ArgumentParser) -> None:
        p.add_argument("artefact", type=_path, help="a folder that `cdrmix compile` wrote")

    def config(p: argparse.ArgumentParser) -> None:
        p.add_argument("config", type=_path, help="a YAML file like those in configs/; docs/training.md has every key")
        change = "change the config: optim.lr=1e-3; the spec's settings as set.layers=8"
        p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=change)

    def data(p: argparse.ArgumentParser) -> None:
        p.add_argument("data", type=_path, nargs="+", help="text and .jsonl files, or folders of them")
        p.add_argument(
            "--field", type=_utf8, default="text", help="the field of a .jsonl line that holds the text (%(default)s)"
        )

    def machine(p: argparse.ArgumentParser) -> None:
        p.add_argument("--json", action="store_true", help="print JSON, for machines")

    p = command("check", "Check a spec and say every mistake in it.", "cdrmix check spec/tiny.cdr --set layers=8")
    spec(p)
    machine(p)

    p = command(
        "inspect",
        "Show a model: parameters, bytes, state, FLOPs a token, and the class of every state.",
        "cdrmix inspect spec/1b.cdr",
    )
    spec(p)
    p.add_argument("--ops", action="store_true", help="also each op, and how its states run over a sequence")
    counts = ", ".join(name for name, backend in TARGETS.items() if backend.inspect)
    p.add_argument("--target", help=f"instead, what each line costs on a target: {counts}")
    held(p, None, "count weights whose matrices are stored so (f32, bf16 and i8)")
    _backends(p, lambda backend: backend.inspect is not None)
    machine(p)

    p = command(
        "compile",
        "Compile a spec to an artefact: a folder that runs by itself.",
        "cdrmix compile spec/tiny.cdr --target cpu --checkpoint runs/tiny -o build/tiny",
    )
    spec(p)
    targets = ", ".join(f"{name} ({backend.targets[name]})" for name, backend in TARGETS.items())
    p.add_argument("--target", required=True, help=targets)
    more = {name: sorted(backend.encodings - {"f32"}) for name, backend in TARGETS.items()}
    read = "; ".join(f"{name} also {', '.join(others)}" for name, others in more.items() if others)
    held(p, "f32", f"how matrices are stored; values and state stay f32 (%(default)s; {read})")
    _backends(p)
    p.add_argument(
        "--checkpoint",
        type=_path,
        help="weights: a run, a .safetensors or a .pth (default: the spec's init)",
    )
    p.add_argument("--tokenizer", help="a tokenizer.json, or `bytes` (default: the checkpoint's)")
    p.add_argument(
        "--seed",
        type=_whole((1 << 64) - 1),
        help="of the init, without a checkpoint (0; above 100 M parameters: no init)",
    )
    p.add_argument("--dump-after", metavar="PASS", help=f"print the IR after a pass: {', '.join(PASSES)}")
    p.add_argument("-o", "--out", type=_path, required=True, help="the folder to write: new, empty, or an artefact's")

    p = command(
        "quantize",
        "Compile in few bits, held and rounded by what that does to a text.",
        "cdrmix quantize runs/tiny --data data/eval.jsonl --quant i4 --max-loss 1 -o build/tiny-i4",
    )
    p.add_argument("source", type=_path, help="a run, a checkpoint, or an artefact whose weights are f32, f16 or bf16")
    p.add_argument("--data", type=_path, nargs="+", required=True, help="text and .jsonl files, or folders of them")
    field = "the field of a .jsonl line that holds the text (%(default)s)"
    p.add_argument("--field", type=_utf8, default="text", help=field)
    read = "how many tokens of the text are read at most (%(default)s): a quarter to choose by, the rest to score"
    p.add_argument("--tokens", type=_whole(LARGEST, 1), default=65_536, help=read)
    p.add_argument("--quant", choices=("i4", "i8", "i8g32"), default="i8", help="the narrowest encoding (%(default)s)")
    p.add_argument(
        "--encode",
        action="append",
        default=[],
        metavar="PATHS=ENCODING",
        help="hold these matrices so, whatever they cost; repeatable, the last that matches holds",
    )
    loss = "how much more the text may cost, in percent of its bits per byte (%(default)s): wider is what costs most"
    p.add_argument("--max-loss", type=_nonnegative, default=1.0, metavar="PERCENT", help=loss)
    p.add_argument("--spec", type=_path, help="the spec, where no run or artefact says it")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of --spec")
    p.add_argument("--model", help="the model to take, where a file has several (default: the last)")
    p.add_argument("--target", default="cpu", help="what to compile for (%(default)s)")
    p.add_argument("--tokenizer", help="a tokenizer.json, or `bytes` (default: the checkpoint's)")
    p.add_argument("--threads", type=_whole(1024, 1), help="of this machine (default: all; fewer where it is busy)")
    p.add_argument("-o", "--out", type=_path, required=True, help="the folder to write: new, empty, or an artefact's")
    machine(p)

    p = command("doctor", "Say what each target needs on this machine, and how to get it.", "cdrmix doctor cuda")
    p.add_argument("target", nargs="*", help="targets (default: all)")
    machine(p)

    promised = "".join(
        f"; {name}: {', '.join(f'{of} {error:g}' for of, error in backend.tolerances.items())}"
        for name, backend in TARGETS.items()
        if backend.tolerances
    )
    p = command(
        "verify", "Run an artefact against the float64 interpreter and print the errors.", "cdrmix verify build/tiny"
    )
    artefact(p)
    p.add_argument(
        "--tokens", type=_whole(1_000_000, 1), default=64, help="how many random tokens to run (%(default)s)"
    )
    p.add_argument(
        "--tolerance",
        type=_nonnegative,
        help=f"largest relative RMS error of logits and states (1e-4{promised})",
    )
    p.add_argument(
        "--random-weights",
        action="store_true",
        help="every parameter random, as it is without a checkpoint: what begins at zero hides faults",
    )
    machine(p)

    p = command(
        "bench",
        "Measure an artefact on this machine: tokens a second, the share of memory's speed, memory.",
        "cdrmix bench build/tiny --prompt 128",
    )
    artefact(p)
    p.add_argument("--prompt", type=_whole(1_000_000, 1), default=512, help="tokens of the prompt (%(default)s)")
    p.add_argument("--tokens", type=_whole(1_000_000, 1), default=64, help="tokens decoded a round (%(default)s)")
    p.add_argument(
        "-j", "--threads", type=_whole(64, 1), metavar="N", help="on this machine's processors, as generate's"
    )
    p.add_argument("--streams", type=_whole(4096, 1), default=8, help="streams of the batch (%(default)s)")
    p.add_argument("--rounds", type=_whole(1000, 1), default=5, help="how often, after a round to begin (%(default)s)")
    machine(p)

    p = command(
        "generate",
        "Stream text from an artefact.",
        'cdrmix generate build/tiny --prompt "def " -n 200 --temperature 0.8',
    )
    artefact(p)
    p.add_argument("--prompt", required=True, help="the text to continue; - reads it from the standard input")
    p.add_argument(
        "-n", "--count", type=_whole((1 << 31) - 1), default=200, help="tokens to make at most (%(default)s)"
    )
    p.add_argument("--temperature", type=_nonnegative, default=0.8, help="0 always takes the likeliest (%(default)s)")
    p.add_argument(
        "--top-p", type=_share, default=0.95, help="keep the likeliest tokens of this probability (%(default)s)"
    )
    p.add_argument(
        "--top-k",
        type=_whole((1 << 31) - 1),
        default=0,
        help="keep so many of the likeliest tokens; 0: all (%(default)s)",
    )
    threads = "on this machine's processors (what CDRMIX_THREADS says, or one a processor, at most 8)"
    p.add_argument("-j", "--threads", type=_whole(64, 1), metavar="N", help=threads)
    p.add_argument(
        "--repetition-penalty",
        type=_positive,
        default=1.0,
        help="above 1: what is among the latest 64 tokens gets rarer (%(default)s)",
    )
    p.add_argument("--seed", type=_whole((1 << 64) - 1), default=0, help="of the random choice (%(default)s)")
    p.add_argument(
        "--stop", type=_text, action="append", default=[], metavar="TEXT", help="end before this text; repeatable"
    )
    p.add_argument(
        "--special", action="store_true", help="special tokens in the prompt, such as <|endoftext|>, are such"
    )
    p.add_argument(
        "--load-state", type=_path, metavar="FILE", help="go on from a saved state instead of beginning a new document"
    )
    p.add_argument("--save-state", type=_path, metavar="FILE", help="write the state at the end")

    p = command("train", "Train a model.", "cdrmix train configs/train-tiny.yaml --set steps=200")
    config(p)
    p.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    p.add_argument(
        "--nproc",
        type=_whole(1024, 1),
        default=1,
        metavar="N",
        help="train in N processes on this machine, one a GPU; on many machines by torchrun … -m cdrmix.train",
    )
    p.add_argument(
        "--restarts",
        type=_whole(1000),
        default=0,
        metavar="N",
        help="where a process of --nproc is lost, go on from the last checkpoint, N times",
    )

    p = command(
        "plan",
        "Predict a run's memory, communication and time on GPUs, before it is run.",
        "cdrmix plan configs/train-8b.yaml --gpus 64 --gpu h100 --price 2.5",
    )
    config(p)
    p.add_argument("--gpus", type=_whole(1 << 20, 1), default=1, help="how many (%(default)s)")
    p.add_argument("--gpu", default="h100", metavar="CARD", help=f"{', '.join(CARDS)} (%(default)s)")
    p.add_argument(
        "--shard", type=_whole(1 << 20, 1), help="GPUs that share one copy of the weights (the config's `mesh`)"
    )
    p.add_argument("--replicate", type=_whole(1 << 20, 1), help="copies of the weights (the config's `mesh`)")
    reached = "the share of the card's peak that products reach (%(default)s)"
    p.add_argument("--efficiency", type=_share, default=EFFICIENCY, help=reached)
    p.add_argument("--price", type=_nonnegative, help="of a GPU for an hour: the plan says what the run costs")
    machine(p)

    p = command(
        "eval",
        "Perplexity and bits per byte of a trained model on held-out text.",
        "cdrmix eval configs/eval-tiny.yaml --set checkpoint=runs/tiny",
    )
    config(p)
    machine(p)

    p = todo.add_parser("tokenizer", help="Train a tokenizer, or look at what one does.")
    sub = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    p = command(
        "train",
        "a byte-level BPE from text",
        "cdrmix tokenizer train data/train.jsonl --vocab 4096 -o tokenizer.json",
        sub,
        "run_tokenizer_",
    )
    data(p)
    p.add_argument("--vocab", type=int, default=4096, help="how many tokens it has (%(default)s)")
    p.add_argument("-o", "--out", type=_path, required=True, help="the tokenizer.json to write")
    p = command(
        "encode",
        "print the token ids of a text",
        'cdrmix tokenizer encode tokenizer.json "def "',
        sub,
        "run_tokenizer_",
    )
    p.add_argument("tokenizer", help="a tokenizer.json, or `bytes`")
    p.add_argument("text")
    p.add_argument("--special", action="store_true", help="special tokens in the text, such as <|endoftext|>, are such")

    p = todo.add_parser("data", help="Collect and divide text.")
    sub = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    p = command(
        "from-directory",
        "a tree of text files to .jsonl shards",
        "cdrmix data from-directory src data/shards --only .py --exclude tests",
        sub,
        "run_data_",
    )
    p.add_argument("tree", type=_path, help="the folder to collect")
    p.add_argument("out", type=_path, help="the folder to write shard-….jsonl to")
    p.add_argument("--shard-mb", type=_whole(1 << 40, 1), default=256, help="about how large a shard is (%(default)s)")
    p.add_argument("--exclude", action="append", default=[], metavar="NAME", help="a file or folder name to pass over")
    p.add_argument(
        "--only", action="append", default=[], metavar="SUFFIX", help="keep these suffixes, for instance .py"
    )
    machine(p)
    p = command(
        "split",
        "disjoint train.jsonl and eval.jsonl, by content",
        "cdrmix data split data/shards --ratio 0.1 -o data",
        sub,
        "run_data_",
    )
    data(p)
    p.add_argument("--ratio", type=float, default=0.1, help="the share of documents in eval (%(default)s)")
    p.add_argument("-o", "--out", type=_path, help="the folder to write (default: beside the data, with -split)")
    machine(p)
    return parser
