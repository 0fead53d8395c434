"""RWKV-7 of `spec/rwkv7.cdr` as llama.cpp has it: a GGUF file of the same weights, and a model that steps.

Needs `pip install llama-cpp-python==0.3.36 gguf`, which builds llama.cpp for this machine: by hand, no part of the
project needs it.  Names and layouts are those that llama.cpp's loader asks for (architecture `rwkv7`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}
"""`llama_ftype` by the names of llama.cpp's own tool."""
LOW_RANK = {"w": "w", "a": "a", "v": "nu", "g": "g"}
"""Their letter of a pair of low-rank matrices, and ours."""
PLAIN = {"k_k": "k_k", "k_a": "k_a", "key": "Wk", "value": "Wv", "receptance": "Wr", "output": "Wo"}
"""Their names and ours of what needs no change."""


def write_gguf(path: Path, weights: Mapping[str, np.ndarray], settings: Mapping[str, int]) -> None:
    """The weights in f32; `settings` has layers, d_model, vocab and head_size."""
    import gguf

    layers, width, vocab = settings["layers"], settings["d_model"], settings["vocab"]
    rank = {theirs: weights[f"layer.{layers - 1}.att.{ours}1"].shape[0] for theirs, ours in LOW_RANK.items()}
    out = gguf.GGUFWriter(str(path), "rwkv7")
    out.add_name("bench")
    out.add_context_length(1 << 20)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(4 * width)
    out.add_head_count(0)
    out.add_layer_norm_eps(1e-5)
    out.add_wkv_head_size(settings["head_size"])
    out.add_decay_lora_rank(rank["w"])
    out.add_iclr_lora_rank(rank["a"])
    out.add_value_residual_mix_lora_rank(rank["v"])
    out.add_gate_lora_rank(rank["g"])
    out.add_file_type(0)
    out.add_tokenizer_model("rwkv")
    out.add_token_list([b"<s>", *(b"'x%d'" % n for n in range(1, vocab))])
    out.add_token_types([3, *[1] * (vocab - 1)])
    for name, value in _theirs(weights, layers, width, rank).items():
        out.add_tensor(name, np.ascontiguousarray(value, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _theirs(weights: Mapping[str, np.ndarray], layers: int, width: int, rank: Mapping[str, int]) -> dict[str, Any]:
    """Our tensors under their names, the shifts of a layer in one tensor."""
    found = {"token_embd.weight": weights["emb.E"], "output.weight": weights["head.W"]}
    for theirs, ours in (("token_embd_norm", "ln0"), ("output_norm", "ln_out")):
        found |= {f"{theirs}.weight": weights[f"{ours}.w"], f"{theirs}.bias": weights[f"{ours}.b"]}
    for n in range(layers):
        block, att, ffn = f"blk.{n}", f"layer.{n}.att", f"layer.{n}.ffn"
        mixed = [weights[f"{att}.m{letter}"] for letter in "rwkvag"]
        found[f"{block}.time_mix_lerp_fused.weight"] = np.stack(mixed)[:, None, None, :]  # [6, 1, 1, D]
        for theirs, ours in (("attn_norm", att), ("attn_norm_2", ffn)):
            for part, short in (("weight", "w"), ("bias", "b")):
                found[f"{block}.{theirs}.{part}"] = weights[f"{ours}.layer_norm.{short}"]
        for theirs, ours in LOW_RANK.items():
            names, there = f"{block}.time_mix_{theirs}", f"{att}.{ours}1" in weights
            r = rank[theirs if there else "a"]  # the first layer mixes in no value, but the file has tensors for it
            found[f"{names}1.weight"] = weights[f"{att}.{ours}1"] if there else np.zeros((r, width))
            found[f"{names}2.weight"] = weights[f"{att}.{ours}2"] if there else np.zeros((width, r))
            if theirs != "g":
                found[f"{names}0.weight"] = weights[f"{att}.{ours if there else 'a'}0"]
        for theirs, ours in PLAIN.items():
            found[f"{block}.time_mix_{theirs}.weight"] = weights[f"{att}.{ours}"]
        found[f"{block}.time_mix_r_k.weight"] = weights[f"{att}.r_k"].reshape(-1)
        for part, short in (("weight", "w"), ("bias", "b")):
            found[f"{block}.time_mix_ln.{part}"] = weights[f"{att}.gn_{short}"]
        found[f"{block}.channel_mix_lerp_k.weight"] = weights[f"{ffn}.shift.mk"][None, None]
        found[f"{block}.channel_mix_key.weight"] = weights[f"{ffn}.ffn.Wk"]
        found[f"{block}.channel_mix_value.weight"] = weights[f"{ffn}.ffn.Wv"]
    return found


class Llama:
    """A GGUF file opened by llama.cpp: one sequence, and as many others as a batch asks for."""

    def __init__(self, path: Path, threads: int = 1):
        import llama_cpp.llama_cpp as lib

        self.lib, self.pos = lib, 0
        self._quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        self.threads = threads
        self.context = self._context(1)
        self.many: dict[int, Any] = {}
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def _context(self, sequences: int) -> Any:
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 4096 * sequences, 512, 512
        params.n_threads = params.n_threads_batch = self.threads
        params.n_seq_max = sequences
        return self.lib.llama_init_from_model(self.model, params)

    def reset(self) -> None:
        """A new document."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.pos = 0

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """The logits after some tokens."""
        places = [(token, 0, self.pos + i) for i, token in enumerate(tokens)]
        self._decode(self.context, places, wanted={len(tokens) - 1})
        self.pos += len(tokens)
        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, len(tokens) - 1), (self.vocab,)).copy()

    def together(self, rows: int, tokens: Sequence[int]) -> bool:
        """Every one of `rows` sequences reads the tokens, all of them in one step after the other."""
        if rows not in self.many:
            self.many[rows] = self._context(rows)
        context = self.many[rows]
        self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)
        for n in range(len(tokens)):
            places = [(tokens[(n + row) % len(tokens)], row, n) for row in range(rows)]
            self._decode(context, places, wanted=set(range(rows)))
        return True

    def _decode(self, context: Any, places: Sequence[tuple[int, int, int]], wanted: set[int]) -> None:
        """Read tokens, each of a sequence and at a place in it; logits are made for those whose number is wanted."""
        batch = self.lib.llama_batch_init(len(places), 0, 1)
        batch.n_tokens = len(places)
        for i, (token, sequence, place) in enumerate(places):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, place, 1, sequence
            batch.logits[i] = i in wanted
        code = self.lib.llama_decode(context, batch)
        self.lib.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode: {code}")


def quantise(source: Path, to: Path, name: str) -> None:
    """llama.cpp's own conversion of a file."""
    import llama_cpp.llama_cpp as lib

    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[name], 1
    if code := lib.llama_model_quantize(str(source).encode(), str(to).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama_model_quantize to {name}: {code}")
