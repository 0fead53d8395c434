"""The names of a generated torch module: its classes and attributes, beside `ir.python`'s identifiers and texts.

Input: any name a spec can hold.
Output: a name that neither Python nor torch nor the generated code has taken.
"""

from __future__ import annotations

import keyword
import re

MODULE_NAMES = frozenset(
    {"torch", "nn", "F", "math", "Tensor", "Generator", "Mapping", "State", "Model", "HASH", "annotations"}
    | {"self", "stream", "rows"}
)
"""What a generated module itself binds, besides its imports from `cdrmix_scans`."""

_MODULE_MEMBERS = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
"""
_OWN_MEMBERS = """
    at banks depth groups forward step start routed init_weights aux metrics after_step
    paths ties build drawn begin close init_state param_groups hidden logits layers matrices outside
    first_line last_line apart
"""
MEMBERS = frozenset((_MODULE_MEMBERS + _OWN_MEMBERS).split())
"""Attributes of `nn.Module` and of generated classes."""


def attribute(name: str) -> str:
    """The attribute of a module that holds the param, part or label `name`: one name, one attribute.

    A layer's number is left as it is: it stands in a `ModuleList`, or is looked up by `get_submodule`.
    """
    if name.isascii() and name.isdigit():
        return name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name.startswith("esc_"):
        return f"esc_{name.encode('utf-8', 'surrogatepass').hex()}"
    plain = name.rstrip("_")
    return f"{name}_" if plain in MEMBERS or keyword.iskeyword(plain) else name


def class_name(op: str) -> str:
    """`layer_norm` as `LayerNorm`."""
    words = [w for w in re.split(r"[^A-Za-z0-9]+", op) if w]
    return "".join(w[0].upper() + w[1:] for w in words) or "Op"
