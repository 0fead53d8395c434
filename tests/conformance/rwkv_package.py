"""Runs the `rwkv` package on a checkpoint, in a process of its own: it reads its settings at import.

python rwkv_package.py VERSION CHECKPOINT.pth TOKENS.npy OUT.npz

Output: `logits` [T, vocab] and every tensor of the state after the last token, `state0`, `state1`, …
"""

from __future__ import annotations

import os
import sys

import numpy as np


def main(version: str, checkpoint: str, tokens: str, out: str) -> None:
    """One token at a time, in fp32 on the CPU."""
    os.environ.update(RWKV_V7_ON="1" if version == "7" else "0", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(1)
    model = RWKV(model=checkpoint.removesuffix(".pth"), strategy="cpu fp32")
    state, logits = None, []
    for token in np.load(tokens).tolist():
        y, state = model.forward([token], state)
        logits.append(y.numpy())
    np.savez(out, logits=np.stack(logits), **{f"state{n}": s.numpy() for n, s in enumerate(state)})


if __name__ == "__main__":
    main(*sys.argv[1:])
