"""The command line: arguments in, one command run, errors as text and an exit code.

Exit codes: 0 done; 1 a mistake in a spec, a config, data or an artefact; 2 a mistake in the command line; 3 an artefact
that `verify` found wrong; 130 interrupted.  A traceback is a bug of cdrmix, never the answer to a user's mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cdrmix import commands
from cdrmix.diagnose import CompileError, UserError, explain
from cdrmix.runtime.errors import ArtifactError

MISTAKE, USAGE, WRONG, INTERRUPTED = 1, 2, 3, 130

_ABOUT = """A compiler for streaming language models.  Write what happens to one token (.cdr), train it, stream it.

  cdrmix check spec/tiny.cdr                               is the spec right?
  cdrmix inspect spec/tiny.cdr                             what does it cost, how is each state computed?
  cdrmix tokenizer train TEXT -o tokenizer.json            a byte-level BPE from text
  cdrmix train configs/train-tiny.yaml                     a checkpoint from text
  cdrmix compile spec/tiny.cdr --target cpu --checkpoint RUN -o DIR
  cdrmix generate DIR --prompt "def "                      stream from the artefact"""

_EXITS = "exit codes: 0 done, 1 a mistake in a spec, config, data or artefact, 2 in the command line, 3 verify failed"


def make_parser() -> argparse.ArgumentParser:
    """Every command and option."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("cdrmix", description=_ABOUT, epilog=_EXITS, formatter_class=raw)
    todo = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, example: str) -> argparse.ArgumentParser:
        made = todo.add_parser(name, help=help, description=help, epilog=f"example: {example}", formatter_class=raw)
        made.set_defaults(run=getattr(commands, f"run_{name}"))
        return made

    def spec(p: argparse.ArgumentParser) -> None:
        p.add_argument("spec", type=Path, help="a .cdr file, or a name in the installed spec folder")
        p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of the spec")
        p.add_argument("--model", help="the model to take, where a file has several (default: the last)")

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
    machine(p)

    p = command(
        "compile",
        "Compile a spec to an artefact: a folder that runs by itself.",
        "cdrmix compile spec/tiny.cdr --target cpu --checkpoint runs/tiny -o build/tiny",
    )
    spec(p)
    p.add_argument("--target", required=True, help="torch, or cpu (one C file)")
    p.add_argument(
        "--checkpoint", type=Path, help="weights: a run, a checkpoint or a .safetensors file (default: the spec's init)"
    )
    p.add_argument("--tokenizer", type=Path, help="a tokenizer.json (default: the checkpoint's)")
    p.add_argument("--seed", type=int, default=0, help="of the init, without a checkpoint")
    p.add_argument("--dump-after", metavar="PASS", help=f"print the IR after a pass: {', '.join(commands.PASSES)}")
    p.add_argument("-o", "--out", type=Path, required=True, help="the folder to write")

    p = command(
        "verify", "Run an artefact against the float64 interpreter and print the errors.", "cdrmix verify build/tiny"
    )
    p.add_argument("artefact", type=Path)
    p.add_argument("--tokens", type=int, default=64, help="how many random tokens to run")
    p.add_argument("--tolerance", type=float, default=1e-4, help="largest relative RMS error of logits and states")
    machine(p)

    p = command(
        "generate",
        "Stream text from an artefact.",
        'cdrmix generate build/tiny --prompt "def " -n 200 --temperature 0.8',
    )
    p.add_argument("artefact", type=Path)
    p.add_argument("--prompt", required=True)
    p.add_argument("-n", "--count", type=int, default=200, help="tokens to make at most")
    p.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest")
    p.add_argument("--top-p", type=float, default=0.95)
    p.add_argument("--top-k", type=int, default=0, help="0: all")
    p.add_argument("--repetition-penalty", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--load-state", type=Path, help="begin from a saved state instead of a new document")
    p.add_argument("--save-state", type=Path, help="write the state at the end")

    p = command("train", "Train a model.", "cdrmix train configs/train-tiny.yaml --set steps=200")
    p.add_argument("config", type=Path)
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the config: optim.lr=1e-3, set.layers=8"
    )
    p.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")

    p = command(
        "eval", "Perplexity and bits per byte of a trained model on held-out text.", "cdrmix eval configs/eval-1b.yaml"
    )
    p.add_argument("config", type=Path)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the config")
    machine(p)

    p = todo.add_parser("tokenizer", help="Train a tokenizer, or look at what one does.")
    sub = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    q = sub.add_parser("train", help="a byte-level BPE from text")
    q.add_argument("data", type=Path, nargs="+", help="text and .jsonl files, or folders of them")
    q.add_argument("--vocab", type=int, default=4096)
    q.add_argument("--field", default="text", help="the field of a .jsonl line that holds the text")
    q.add_argument("-o", "--out", type=Path, required=True)
    q.set_defaults(run=commands.run_tokenizer_train)
    q = sub.add_parser("encode", help="print the token ids of a text")
    q.add_argument("tokenizer", help="a tokenizer.json, or `bytes`")
    q.add_argument("text")
    q.set_defaults(run=commands.run_tokenizer_encode)

    p = todo.add_parser("data", help="Collect and divide text.")
    sub = p.add_subparsers(dest="what", metavar="WHAT", required=True)
    q = sub.add_parser("from-directory", help="a tree of text files to .jsonl shards")
    q.add_argument("tree", type=Path)
    q.add_argument("out", type=Path)
    q.add_argument("--shard-mb", type=int, default=256)
    q.add_argument("--exclude", action="append", default=[], metavar="NAME", help="a file or folder name to pass over")
    q.add_argument(
        "--only", action="append", default=[], metavar="SUFFIX", help="keep these suffixes, for instance .py"
    )
    machine(q)
    q.set_defaults(run=commands.run_data_from_directory)
    q = sub.add_parser("split", help="disjoint train.jsonl and eval.jsonl, by content")
    q.add_argument("data", type=Path, nargs="+")
    q.add_argument("--ratio", type=float, default=0.1, help="the share of documents in eval")
    q.add_argument("--field", default="text")
    q.add_argument("-o", "--out", type=Path, help="the folder to write (default: beside the data, with -split)")
    machine(q)
    q.set_defaults(run=commands.run_data_split)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = make_parser().parse_args(argv)
    as_json = getattr(arguments, "json", False)
    try:
        code: int = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except CompileError as e:
        if as_json:
            found = [d.as_json() for d in e.diagnostics]
            print(json.dumps({"errors": [d | {"file": e.paths.get(str(d["file"]), d["file"])} for d in found]}))
        else:
            print(explain(e), end="\n\n", file=sys.stderr)
            count = len(e.diagnostics)
            print(f"{count} mistake{'s' if count > 1 else ''}", file=sys.stderr)
        return MISTAKE
    except (UserError, ArtifactError) as e:
        if as_json:
            print(json.dumps({"errors": [{"message": e.message, "help": e.help}]}))
        else:
            print(f"error: {e.message}" + (f"\n  = help: {e.help}" if e.help else ""), file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe left; nothing to say
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
