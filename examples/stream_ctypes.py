"""The same as stream.c in Python, with ctypes and the standard library alone: neither cdrmix nor numpy is needed.

Input: `python stream_ctypes.py LIBRARY DIR PROMPT [COUNT]`: the artefact's `libmodel.so` after `make`, or
`libcdrmix-NAME.so` after `make install`, and the folder of weights and tokenizer.
Output: the prompt and what the model writes after it, as it comes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_ubyte, c_uint64, c_void_p


class Sampling(ctypes.Structure):
    """`cdr_sampling` of tokenizer.h."""

    _fields_ = [
        ("temperature", c_double),
        ("top_p", c_double),
        ("top_k", c_int32),
        ("random", c_uint64),
        ("known", c_char_p),
    ]


class Candidate(ctypes.Structure):
    """`cdr_candidate` of tokenizer.h."""

    _fields_ = [("p", c_double), ("id", c_int32)]


IDS, FLOATS = POINTER(c_int32), POINTER(c_float)
FUNCTIONS = {
    "cdr_open": (c_int, [POINTER(c_void_p), c_char_p]),
    "cdr_close": (None, [c_void_p]),
    "cdr_vocab": (c_int, [c_void_p]),
    "cdr_state_size": (c_size_t, [c_void_p]),
    "cdr_state_init": (c_int, [c_void_p, c_void_p]),
    "cdr_state_free": (None, [c_void_p, c_void_p]),
    "cdr_state_tokens": (c_uint64, [c_void_p, c_void_p]),
    "cdr_prefill": (c_int, [c_void_p, c_void_p, IDS, c_size_t, FLOATS]),
    "cdr_step": (c_int, [c_void_p, c_void_p, c_int32, FLOATS]),
    "cdr_error_text": (c_char_p, [c_int]),
    "cdr_tokenizer_open": (c_int, [POINTER(c_void_p), c_char_p]),
    "cdr_tokenizer_close": (None, [c_void_p]),
    "cdr_tokenizer_eot": (c_int32, [c_void_p]),
    "cdr_encode": (c_int, [c_void_p, c_char_p, c_size_t, IDS, POINTER(c_size_t)]),
    "cdr_token_bytes": (POINTER(c_ubyte), [c_void_p, c_int32, POINTER(c_size_t)]),
    "cdr_random_at": (c_uint64, [c_uint64, c_uint64]),
    "cdr_sample": (c_int32, [POINTER(Sampling), FLOATS, c_int32, POINTER(Candidate)]),
}


def load(library: str) -> ctypes.CDLL:
    """The library with the signatures of model.h and tokenizer.h."""
    lib = ctypes.CDLL(os.path.abspath(library))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def main(library: str, folder: str, prompt: str, count: str = "200") -> None:
    """Stream."""
    lib = load(library)

    def check(code: int, doing: str) -> None:
        if code:
            sys.exit(f"{doing}: {lib.cdr_error_text(code).decode()}")

    def text(token: int) -> bytes:
        size = c_size_t()
        found = lib.cdr_token_bytes(tokenizer, token, byref(size))
        return bytes(found[: size.value])

    model, tokenizer = c_void_p(), c_void_p()
    check(lib.cdr_open(byref(model), os.fsencode(f"{folder}/weights.safetensors")), folder)
    check(lib.cdr_tokenizer_open(byref(tokenizer), os.fsencode(f"{folder}/tokenizer.json")), folder)
    vocab = lib.cdr_vocab(model)
    memory = (ctypes.c_longdouble * (lib.cdr_state_size(model) // 16 + 1))()  # a multiple of 16
    state, logits, candidates = ctypes.addressof(memory), (c_float * vocab)(), (Candidate * vocab)()

    given = os.fsencode(prompt)
    ids, read, end = (c_int32 * (len(given) + 1))(), c_size_t(), lib.cdr_tokenizer_eot(tokenizer)
    begun = int(end >= 0)
    ids[0] = end if begun else 0  # a document begins with the end of the one before it, as in training
    rest = ctypes.cast(byref(ids, 4 * begun), IDS)
    check(lib.cdr_encode(tokenizer, given, len(given), rest, byref(read)), "reading the prompt")
    check(lib.cdr_state_init(model, state), "starting")
    check(lib.cdr_prefill(model, state, ids, begun + read.value, logits), "reading the prompt")

    known = bytes(text(token) != b"" for token in range(vocab))  # the model may have more tokens than have a text
    how = Sampling(0.8, 0.95, 0, lib.cdr_random_at(0, lib.cdr_state_tokens(model, state)), known)
    out = sys.stdout.buffer
    out.write(given)
    for _ in range(int(count)):
        token = lib.cdr_sample(byref(how), logits, vocab, candidates)
        if token < 0:
            sys.exit("choosing a token: the logits are not finite")
        if token == end:
            break
        out.write(text(token))
        out.flush()
        check(lib.cdr_step(model, state, token, logits), "running the model")
    out.write(b"\n")
    lib.cdr_state_free(model, state)
    lib.cdr_tokenizer_close(tokenizer)
    lib.cdr_close(model)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: stream_ctypes.py LIBRARY DIR PROMPT [COUNT]")
    main(*sys.argv[1:])
