"""What the torch backend is tested on: small models, and the ops of `torch_ops.cdr`, the library's among them."""

from __future__ import annotations

Case = tuple[str, dict[str, int], dict[str, str]]

EXPERT = {"expert": "relu2(hidden=8)", "experts": "5", "top_k": "2"}

LIBRARY: dict[str, Case] = {
    "rotate": ("rotate", {"H": 2, "N": 6}, {"base": "100.0"}),
    "rotate_pairs": ("rotate_pairs", {"H": 2, "N": 6}, {"base": "100.0"}),
    "attention": ("attention", {"D": 12}, {"heads": "6", "kv_heads": "2", "window": "5"}),
    "attention_1": ("attention", {"D": 12}, {"heads": "2", "window": "1"}),
    "attention_8": ("attention", {"D": 64}, {"heads": "8", "kv_heads": "2", "window": "70"}),
    "attention_alibi": ("attention_alibi", {"D": 12}, {"heads": "6", "kv_heads": "3", "window": "7"}),
    "token_shift": ("token_shift", {"D": 8}, {}),
    "relu2": ("relu2", {"D": 8}, {"hidden": "12"}),
    "channel_mix": ("channel_mix", {"D": 8}, {"hidden": "12"}),
    "swiglu": ("swiglu", {"D": 8}, {"hidden": "12"}),
    "head": ("head", {"D": 8}, {"vocab": "11"}),
    "gated_delta": ("gated_delta", {"D": 12}, {"N": "4", "V": "6", "width": "3"}),
    "short_conv": ("short_conv", {"C": 6}, {"width": "4"}),
    "mamba2": ("mamba2", {"D": 8}, {"N": "5", "P": "4"}),
    "moe": ("moe", {"D": 8}, EXPERT),
    "moe_shared": ("moe", {"D": 8}, {**EXPERT, "shared": "2"}),
    "moe_odd": ("moe", {"D": 6}, {**EXPERT, "expert": "swiglu(hidden=7)", "top_k": "3"}),
    "moe_sigmoid": ("moe_sigmoid", {"D": 8}, EXPERT),
    "layer_norm": ("layer_norm", {"D": 8}, {}),
    "rms_norm": ("rms_norm", {"D": 8}, {}),
    "group_norm": ("group_norm", {"H": 2, "N": 5}, {}),
    "unit": ("unit", {"H": 2, "N": 5}, {}),
    "gelu": ("gelu", {"D": 8}, {}),
    "gelu_tanh": ("gelu_tanh", {"D": 8}, {}),
    "retnet": ("retnet", {"D": 12}, {"N": "4"}),
    "rwkv4": ("rwkv4", {"D": 8}, {}),
    "channel_mix4": ("channel_mix4", {"D": 8}, {"hidden": "12"}),
    "rwkv6": ("rwkv6", {"D": 12}, {"N": "4", "rank": "3", "dw": "2"}),
    "channel_mix6": ("channel_mix6", {"D": 8}, {"hidden": "12"}),
    "rwkv7": ("rwkv7", {"D": 12}, {"N": "4", "dw": "2", "da": "2", "dv": "2", "dg": "3"}),
    "rwkv7_diag": ("rwkv7_diag", {"D": 12}, {"N": "4", "dw": "2", "da": "2", "dg": "3"}),
    "rwkv7_plain_v": ("rwkv7_plain_v", {"D": 12}, {"N": "4", "dw": "2", "da": "2", "dg": "3"}),
    "rwkv7_gdn": ("rwkv7_gdn", {"D": 12}, {"N": "4", "dw": "2", "dg": "3"}),
}
"""name: (op, sizes, arguments)."""

SMALL = {"d_model": "32", "layers": "3", "vocab": "64"}
MODELS: dict[str, tuple[str, dict[str, str]]] = {
    "tiny": ("tiny", {**SMALL, "mixer": "rwkv7(N=16, dw=4, da=4, dv=4, dg=4)", "moe.hidden": "16"}),
    "rwkv4_model": ("rwkv4", SMALL),
    "rwkv6_model": ("rwkv6", SMALL),
    "hybrid": (
        "hybrid",
        {
            **SMALL,
            "layers": "4",
            "mixer": "rwkv7(N=16, dw=4, da=4, dv=4, dg=4)",
            "moe.hidden": "16",
            "moe.experts": "4",
            "attn.window": "8",
        },
    ),
}

OWN: dict[str, tuple[dict[str, int], dict[str, str]]] = {
    "tanh_rnn": ({"D": 6}, {}),
    "lstm": ({"D": 6}, {}),
    "min_gru": ({"D": 6}, {}),
    "max_log": ({"D": 6}, {}),
    "momentum": ({"D": 6}, {}),
    "titans": ({"D": 6}, {"N": "3"}),
    "delta_product": ({"D": 8}, {"N": "4"}),
    "m_lstm": ({"D": 8}, {"N": "4"}),
    "started": ({"D": 8}, {"N": "4"}),
    "two_sided": ({"D": 8}, {"N": "4"}),
    "shift_register": ({"D": 6}, {}),
    "far_delay": ({"D": 6}, {}),
    "windows": ({"D": 6}, {"width": "5"}),
    "soft_window": ({"D": 6}, {"width": "4"}),
    "places": ({"D": 12}, {"N": "4"}),
    "picks": ({"D": 8}, {}),
    "picks_of_comparisons": ({"D": 8}, {}),
    "conditions": ({"D": 6}, {}),
    "functions": ({"D": 6}, {}),
    "positions": ({"D": 6}, {}),
    "bank_of_state": ({"D": 6}, {}),
    "bank_of_history": ({"D": 6}, {}),
    "every_of_state": ({"D": 6}, {}),
    "bank_of_banks": ({"D": 8}, {}),
    "rwkv7_decay_only": ({"D": 12}, {"N": "4", "dw": "2", "da": "2", "dg": "3"}),
    "rwkv7_tanh": ({"D": 8}, {"N": "4", "dw": "2", "da": "2", "dg": "3"}),
    "headed": ({"D": 12}, {"N": "4"}),
    "every_own": ({"D": 12}, {"N": "4"}),
    "bank_of_places": ({"D": 6}, {}),
    "scalars": ({"D": 6}, {}),
    "one_window": ({"D": 6}, {}),
    "hostile": ({"D": 4}, {}),
    "turned_signs": ({"D": 12}, {"A": "3"}),
    "entropies": ({"D": 6}, {"width": "4"}),
    "window_in_a_loop": ({"D": 6}, {"width": "5"}),
    "weights_seen_merged": ({"D": 12}, {"A": "3"}),
    "repelled": ({"D": 12}, {"N": "4"}),
    "without_inputs": ({"D": 6}, {}),
    "shares_by_hand": ({"D": 6}, {}),
}
