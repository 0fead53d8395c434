"""`cdrmix generate` and `cdrmix-run` write the same bytes and save the same states; a text goes on where it was cut."""

from __future__ import annotations

import ctypes
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cdrmix.runtime.generation import Stops
from cdrmix.runtime.tokens import Tokenizer, visible_bytes

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.cli import main
from cdrmix.compiler import lower
from cdrmix.ir.initial import random_weights
from cdrmix.train.tokenizer import byte_tokenizer, train_tokenizer
from cdrmix.weights import write_weights
from tests.small import SPEC, TEXT

from .c_program import CC, STRICT, compile_c, needs_compiler

pytestmark = [needs_compiler, pytest.mark.skipif(shutil.which("make") is None, reason="no make")]
VOCAB = 300
END = "<|endoftext|>"
REPLACED = "\ufffd".encode()


# --- stop texts ----------------------------------------------------------------------------------------------------
class _Stops(ctypes.Structure):
    _fields_ = [
        ("texts", POINTER(c_char_p)), ("count", c_int), ("longest", c_size_t), ("held", POINTER(c_ubyte)),
        ("size", c_size_t), ("found", c_int)
    ]  # fmt: skip


def before(data: bytes, texts: Sequence[bytes]) -> bytes:
    """The definition: up to the first stop text to be whole, the one of them that began first."""
    for end in range(1, len(data) + 1):
        starts = [end - len(t) for t in texts if data[:end].endswith(t)]
        if starts:
            return data[: min(starts)]
    return data


def test_stop_texts(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "runtime" / "c" / "stop.c"
    compile_c([str(CC), *STRICT, "-O1", "-fPIC", "-shared", "-o", str(tmp_path / "stop.so"), str(source)])
    lib = ctypes.CDLL(str(tmp_path / "stop.so"))
    lib.cdr_stop_push.restype, lib.cdr_stop_push.argtypes = c_size_t, [POINTER(_Stops), c_ubyte, POINTER(c_ubyte)]
    pick = random.Random(0)
    for _ in range(2000):
        texts = [
            "".join(pick.choice("ab") for _ in range(pick.randrange(1, 6))).encode() for _ in range(pick.randrange(4))
        ]
        data = "".join(pick.choice("aab") for _ in range(pick.randrange(14))).encode()
        longest = max(map(len, texts), default=0)
        held, out = (c_ubyte * (longest + 1))(), (c_ubyte * (longest + 1))()
        c = _Stops((c_char_p * len(texts))(*texts), len(texts), longest, held, 0, 0)
        ours, found, at = Stops(texts), b"", 0
        said = b""
        while at < len(data) and not ours.found:
            n = pick.randrange(1, 4)
            said += ours.push(data[at : at + n])
            for byte in data[at : at + n]:
                if not c.found:
                    found += bytes(out[: lib.cdr_stop_push(byref(c), byte, out)])
            at += n
            assert found == said and bytes(held[: c.size]) == ours.held and bool(c.found) == ours.found
            assert len(ours.held) < max(longest, 1)
        assert said + ours.held == before(data, texts), (texts, data)


# --- the two programs ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Programs:
    """One artefact, run by both."""

    folder: Path
    name: str
    capture: Callable[[], bytes]

    def python(self, *arguments: str, given: bytes | None = None, code: int = 0) -> bytes:
        if given is not None:
            sys.stdin = io.TextIOWrapper(io.BytesIO(given))  # type: ignore[assignment]
        try:
            found = main(["generate", str(self.folder), *arguments])
        except SystemExit as e:
            found = int(e.code or 0)
        finally:
            sys.stdin = sys.__stdin__
        said = self.capture()
        assert found == code, (arguments, found)
        return said

    def c(self, *arguments: str, given: bytes | None = None, code: int = 0) -> bytes:
        names = {
            "--prompt": "--", "--temperature": "-t", "--top-p": "-p", "--top-k": "-k", "--seed": "-s",
            "--load-state": "-l", "--save-state": "-o",
        }  # fmt: skip
        given_prompt = arguments[arguments.index("--prompt") + 1]
        rest = [names.get(a, a) for a in arguments]
        at = rest.index("--")
        rest = [*rest[:at], *rest[at + 2 :], *["--"] * (given_prompt != "-"), given_prompt]
        command = [str(self.folder / "cdrmix-run"), "-m", str(self.folder), *rest]
        done = subprocess.run(command, input=given or b"", capture_output=True, check=False, timeout=60)
        assert done.returncode == code, (arguments, done.returncode, done.stderr)
        return done.stdout

    def both(self, *arguments: str, given: bytes | None = None) -> bytes:
        said = self.python(*arguments, given=given)
        assert self.c(*arguments, given=given) == said, arguments
        return said


def written(folder: Path, merges: int, pick: random.Random) -> Path:
    """A tokenizer of random merges, with holes, a special token and one of text."""
    vocab = {shown: i for i, shown in enumerate(visible_bytes())}
    tokens, pairs, at = [*"abcde \xc3\xa9".replace(" ", "Ġ"), *visible_bytes()[128:140]], [], 256
    for _ in range(merges):
        pair = pick.choice(tokens), pick.choice(tokens)
        if "".join(pair) not in vocab and len("".join(pair)) < 7:
            at += 1 + (pick.random() < 0.2)
            vocab["".join(pair)] = at
            tokens.append("".join(pair))
            pairs.append(pair)
    made = json.loads(byte_tokenizer().to_str())
    made["model"].update(vocab=vocab, merges=pairs)
    about = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    made["added_tokens"] = [
        {"id": at + 2, "content": END, "special": True, **about},
        {"id": at + 3, "content": "ab cd", "special": False, **about},
    ]
    path = folder / f"random-{merges}.json"
    path.write_text(json.dumps(made))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's weights, and tokenizers."""
    made = tmp_path_factory.mktemp("generation")
    model = load_text(SPEC.replace("vocab = 256", f"vocab = {VOCAB}"))
    weights = random_weights(model, 1)
    write_weights(made / "w.safetensors", {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    (made / "text.txt").write_text(TEXT)
    byte_tokenizer().save(str(made / "bytes.json"))
    train_tokenizer([made / "text.txt"], 290).save(str(made / "trained.json"))
    pick = random.Random(5)
    for merges in (3, 12, 25):
        written(made, merges, pick)
    return made


def built(home: Path, name: str) -> Path:
    """The artefact with one of the tokenizers."""
    folder = home / name
    if not folder.exists():
        model = load_text(SPEC.replace("vocab = 256", f"vocab = {VOCAB}"))
        write_artifact(lower(model), "cpu", folder, home / "w.safetensors", home / f"{name}.json")
        subprocess.run(["make", "-s", "-C", str(folder), "CFLAGS=-O1 -DCDR_PLAIN"], check=True)
    return folder


TOKENIZERS = ("bytes", "trained", "random-3", "random-12", "random-25")


@pytest.fixture(params=TOKENIZERS)
def run(request: pytest.FixtureRequest, home: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Programs:
    return Programs(built(home, request.param), request.param, lambda: capsysbinary.readouterr().out)


def settings(pick: random.Random) -> list[str]:
    """How tokens are chosen, at random."""
    found = ["--seed", str(pick.choice([0, 7, 2**64 - 1]))]
    for name, values in (
        ("--temperature", ["0", "1e-310", "0.7", "1.", ".5e1", "1e300"]),
        ("--top-p", ["1", "0.5", "1e-300"]),
        ("--top-k", ["0", "1", "7", "2147483647"]),
    ):
        if pick.random() < 0.6:
            found += [name, pick.choice(values)]
    return found


PIECES = ["abc", " ", "de", "é", "日", END, "<|endof", "ab cd", "\n", "the number 1", "-", "0x1p3"]


def test_the_same_bytes_and_the_same_states(run: Programs, tmp_path: Path) -> None:
    pick = random.Random(3)
    for _ in range(25):
        prompt = "".join(pick.choice(PIECES) for _ in range(pick.randrange(1, 6)))
        how = [*settings(pick), "-n", str(pick.choice([0, 1, 5, 30]))]
        for _ in range(pick.randrange(3)):
            how += ["--stop", pick.choice(["e", "ab", "\n", " t", "é", "zz"])]
        how += ["--special"] * pick.randrange(2)
        if prompt.startswith("-"):
            prompt = " " + prompt  # which argparse takes for an option
        said = run.python(*how, "--prompt", prompt, "--save-state", str(tmp_path / "p"))
        assert run.c(*how, "--prompt", prompt, "--save-state", str(tmp_path / "c")) == said, (prompt, how)
        assert (tmp_path / "p").read_bytes() == (tmp_path / "c").read_bytes(), (prompt, how)
        assert said.startswith(prompt.encode())
        again = [*settings(pick), "-n", "9", "--prompt", pick.choice(["", "b", "é"])]
        run.both(*again, "--load-state", str(tmp_path / pick.choice("pc")))


def test_prompts_that_are_no_text(run: Programs) -> None:
    pick = random.Random(4)
    for _ in range(12):
        given = pick.randbytes(pick.randrange(1, 12)) + pick.choice([b"", b"\xe2\x82", b"\0", b"\xf0"])
        run.both("-n", "12", "--prompt", "-", "--temperature", "2", given=given)
        run.both(
            "-n", "3", "--prompt", given.replace(b"\0", b"\xff").decode(errors="surrogateescape").replace("-", "x")
        )


@pytest.mark.parametrize("temperature", ["0", "1.5"])
def test_a_text_that_is_cut_anywhere_goes_on_as_if_it_was_not(run: Programs, temperature: str, tmp_path: Path) -> None:
    """Token by token, by one program and by the other; characters that are cut are whole again."""
    how = ["--temperature", temperature, "--seed", "5"]
    whole = run.both(*how, "-n", "24", "--prompt", "the é")
    state = str(tmp_path / "s")
    for steps in (1, 5):
        said = run.python(*how, "-n", "0", "--prompt", "the é", "--save-state", state)[:-1]
        for n in range(0, 24, steps):
            one = (run.python, run.c)[n % 2]
            count = ["-n", str(min(steps, 24 - n)), "--prompt", "", "--load-state", state]
            said += one(*how, *count, *(["--save-state", state] if n + steps < 24 else []))[:-1]
        assert said + b"\n" == whole


def test_a_text_that_a_stop_text_ended_goes_on(run: Programs, tmp_path: Path) -> None:
    """The state is that of what was printed: the stop text is not in it, and comes again without --stop."""
    pick, spans, state = random.Random(8), 0, tmp_path / "s"
    for seed in range(12):
        how = ["--temperature", "1.2", "--seed", str(seed)]
        whole = run.both(*how, "-n", "30", "--prompt", "a")[:-1]
        plain = [n for n in range(1, len(whole) - 4) if max(whole[n : n + 3]) < 128]
        if not plain:
            continue
        at = pick.choice(plain)
        stop = whole[at : at + pick.randrange(1, 4)].decode()
        cut = [*how, "-n", "30", "--prompt", "a", "--stop", "never there", "--stop", stop]
        said = run.both(*cut)[:-1]
        assert said == b"a" + whole[1 : whole.index(stop.encode(), 1)]
        states = set()
        for save in (run.python, run.c):
            shown = save(*cut, "--save-state", str(state))[:-1]
            states.add(state.read_bytes())
            rest = run.both(*how, "-n", "30", "--prompt", "", "--load-state", str(state))[:-1]
            if run.name == "bytes":  # each token a byte: no stop text begins inside of one
                assert (shown + rest).startswith(whole.removesuffix(REPLACED))
        assert len(states) == 1
        spans += len(stop) > 1
    assert spans > 1


def test_the_end_of_a_document_is_where_the_state_stands(run: Programs, tmp_path: Path) -> None:
    """It is chosen again: a text that ended has ended."""
    if Tokenizer.from_file(run.folder / "tokenizer.json").eot is None:
        return
    how = ["--temperature", "1000", "--top-p", "1", "-n", "5000", "--seed", "1"]
    state = str(tmp_path / "s")
    for one in (run.python, run.c):
        whole, said = one(*how, "--prompt", "a"), one(*how, "--prompt", "a", "--save-state", state)
        assert said[:-1] + run.both(*how, "--prompt", "", "--load-state", state) == whole
        assert len(whole) < 5000
    assert len(run.both(*how, "--prompt", "more", "--load-state", state)) > 5


def test_only_tokens_that_the_tokenizer_has_are_chosen(run: Programs) -> None:
    tokenizer = Tokenizer.from_file(run.folder / "tokenizer.json")
    assert len(tokenizer.ids) < VOCAB
    said = run.both("--temperature", "1000", "--top-p", "1", "-n", "400", "--prompt", "x", "--seed", "3")
    assert len(said) > 100


def test_special_tokens_are_such_where_that_is_asked_for(run: Programs, tmp_path: Path) -> None:
    """The end of a text in a prompt begins a document, as in training: what was before it is forgotten."""
    tokenizer = Tokenizer.from_file(run.folder / "tokenizer.json")
    for given, special in ((f"one{END}two", []), ("two", []), (f"one{END}two", ["--special"]), (END, ["--special"])):
        run.both("-n", "9", "--prompt", given, *special, "--save-state", str(tmp_path / "s"))
    if tokenizer.eot is None:
        return
    plain = run.both("-n", "20", "--prompt", "two")
    asked = run.both("-n", "20", "--prompt", f"one{END}two", "--special")
    assert asked == f"one{END}".encode() + plain
    assert run.both("-n", "20", "--prompt", f"one{END}two") != asked


BAD_NUMBERS = [
    "",
    " ",
    "x",
    "-1",
    "1e",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "0x10",
    "1_0",
    " 1",
    "1 ",
    "--",
    "٣",
    "1,5",
    "1e5x",
]
WHOLE = [*BAD_NUMBERS, "٣", "1.5", "1e3", "99999999999999999999", "1" * 5000]


@pytest.mark.parametrize("run", ["bytes"], indirect=True)
def test_command_lines_are_read_alike(run: Programs) -> None:
    """The same numbers are taken and refused."""
    for option, bad, good in (
        ("-n", [*WHOLE, "2147483648"], ["0", "+3", "007"]),
        ("--top-k", [*WHOLE, "2147483648"], ["0", "2147483647"]),
        ("--seed", [*WHOLE, "18446744073709551616"], ["0", "18446744073709551615", "+1"]),
        ("--temperature", BAD_NUMBERS, ["0", "-0", "1e-310", "1e-999", "1.7e308", "+.5", "5.", "99999999999999999999"]),
        ("--top-p", [*BAD_NUMBERS, "0", "1.1", "1e-999"], ["1", "1e-5", "0.5"]),
        ("--stop", [""], ["x", "-1", " "]),
    ):
        for value in bad:
            for one in (run.python, run.c):
                assert one(option, value, "--prompt", "ab", code=2) == b"", (option, value)
        for value in good:
            count = [] if option == "-n" else ["-n", "3"]
            if not value.startswith("-") or option != "--stop":
                run.both(option, value, *count, "--prompt", "ab")


@pytest.mark.parametrize("run", ["bytes"], indirect=True)
def test_nothing_to_go_by_is_refused(run: Programs) -> None:
    for one in (run.python, run.c):
        assert one("--prompt", "", code=1) == b""
        assert one("--prompt", "-", given=b"", code=1) == b""


def test_logits_that_are_not_finite_choose_nothing(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Weights of a run that diverged: an error and exit 1, where there was an empty text."""
    model = load_text(SPEC)
    weights = random_weights(model, 1)
    weights["head.W"] = np.sign(weights["head.W"]) * 3e38
    write_weights(home / "large.safetensors", {n: x.shape for n, x in weights.items()}, weights.__getitem__)
    for target in ("cpu", "torch"):
        write_artifact(lower(model), target, home / target, home / "large.safetensors", "bytes")
        for how in ([], ["--temperature", "0"]):
            assert main(["generate", str(home / target), "--prompt", "ab", *how]) == 1
            said = capfdbinary.readouterr()
            assert b"NaN or infinity" in said.err and said.out == b"ab"
    subprocess.run(["make", "-s", "-C", str(home / "cpu"), "CFLAGS=-O1 -DCDR_PLAIN"], check=True)
    for options in ("", "-t 0", "-k 3 -p 1"):
        command = f"{home / 'cpu' / 'cdrmix-run'} -m {home / 'cpu'} {options} ab"
        done = subprocess.run(command.split(), capture_output=True, check=False)
        assert done.returncode == 1 and b"NaN or infinity" in done.stderr and done.stdout == b"ab"


def test_what_cannot_be_printed_is_said(home: Path, tmp_path: Path) -> None:
    """A full or closed standard output, input or disk: exit 1, a sentence, and no state of a text that nobody saw."""
    folder = built(home, "bytes")
    program = f"{folder / 'cdrmix-run'} -m {folder}"
    state = tmp_path / "s"
    cases: dict[str, tuple[str, bytes]] = {
        "full": (f"{program} -n 5 -o {state} ab > /dev/full", b"standard output: No space left"),
        "closed": (f"{program} -n 5 -o {state} ab >&-", b"standard output: Bad file descriptor"),
        "logits": (f"{program} --logits 1 2 > /dev/full", b"standard output: No space left"),
        "help": (f"{program} --help > /dev/full", b""),
        "help alone": (f"{folder / 'cdrmix-run'} --help > /dev/full", b"standard output: No space left"),
        "no input": (f"{program} -n 5 - <&-", b"standard input: Bad file descriptor"),
        "a folder": (f"{program} -n 5 - < {tmp_path}", b"standard input: Is a directory"),
        "a full disk": (f"{program} -n 5 -o /dev/full ab", b"/dev/full"),
    }
    for name, (command, wanted) in cases.items():
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        assert done.returncode == (2 if name == "help" else 1), (name, done)
        assert wanted in done.stderr, (name, done.stderr)
        assert not state.exists(), name
    python = f"{sys.executable} -m cdrmix.cli generate {folder} -n 5 --save-state {state} --prompt"
    for command, wanted in ((f"{python} ab > /dev/full", b"No space left"),):
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        assert done.returncode == 1 and wanted in done.stderr and b"Traceback" not in done.stderr, done
        assert not state.exists()
    done = subprocess.run(["sh", "-c", f"{program} -n 5 -o {state} ab <&- 2>&-"], capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith(b"ab") and state.read_bytes()[:8] == b"CDRSTATE"
