"""The one way from a spec's names to Python: identifiers, attributes, string literals, comments.

Input: any text a spec can hold.
Output: Python that cannot mean anything else.  Identifiers are kept where they can be, and end in `_` where Python,
torch or the generated code has taken them; strings go through `repr`; comments and docs stay on their lines.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

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
    at banks depth groups forward step start routed init_weights metrics after_step
    paths ties build begin close init_state param_groups training_values
"""
MEMBERS = frozenset((_MODULE_MEMBERS + _OWN_MEMBERS).split())
"""Attributes of `nn.Module` and of generated classes."""

_TAKEN = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins)})


def identifier(name: str, taken: Iterable[str] = ()) -> str:
    """A Python identifier near `name` that is none of `taken`, no keyword and no builtin."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not found.strip("_") or found[0].isdigit() or found.startswith("__"):
        found = f"n{found}"
    taken = {*taken, *_TAKEN}
    while found in taken:
        found += "_"
    return found


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


def class_name(op: str, taken: Iterable[str]) -> str:
    """`layer_norm` as `LayerNorm`, numbered when another class has the name."""
    words = [w for w in re.split(r"[^A-Za-z0-9]+", op) if w]
    found = identifier("".join(w[0].upper() + w[1:] for w in words) or "Op")
    taken = {*taken, *_TAKEN, *MODULE_NAMES}
    count, name = 1, found
    while name in taken:
        count += 1
        name = f"{found}_{count}"
    return name


def text(value: str) -> str:
    """A string literal."""
    code = ascii(value)
    return f'"{code[1:-1]}"' if code[0] == "'" and '"' not in code else code


def comment(value: str, width: int = 110) -> str:
    """What may follow `# `: one line of printable text."""
    flat = "".join(c if c.isprintable() else " " for c in value)
    flat = " ".join(flat.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def doc(value: str) -> list[str]:
    """The lines of a docstring's body: no quotes that end it, no escapes, no control characters."""
    lines = []
    for line in value.splitlines():
        plain = "".join(c if c.isprintable() else " " for c in line)
        lines.append(plain.replace("\\", "/").replace('"""', "'''").rstrip().removesuffix('"'))
    while lines and not lines[-1]:
        lines.pop()
    return lines


class Names:
    """The identifiers of one Python scope; each spec name gets its own."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = {*taken}
        self._given: dict[object, str] = {}

    def of(self, key: object, name: str) -> str:
        """The identifier that stands for `key`, made from `name` when first asked for."""
        if key not in self._given:
            self._given[key] = self.fresh(name)
        return self._given[key]

    def fresh(self, name: str) -> str:
        """A new identifier near `name`."""
        base = identifier(name)
        found, count = base, 1
        while found in self._taken:
            count += 1
            found = f"{base}_{count}"
        self._taken.add(found)
        return found
