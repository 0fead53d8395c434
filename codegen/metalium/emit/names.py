"""Names of a plan in the kernels: C++ identifiers that are none of the language's, the API's or the kernels' own.

Input: names of arrays, tensors and indices.  Output: identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cdrmix.ir.nodes import Index

from ..plan import Split

_RESERVED = re.compile(
    # of C++ and of the API
    r"alignas|alignof|and(_eq)?|asm|auto|bit(and|or)|bool|break|case|catch|char|class|compl|const(expr)?|continue|"
    r"decltype|default|delete|do|double|else|enum|explicit|export|extern|false|float|for|friend|goto|if|inline|int|long|"
    r"mutable|namespace|new|noexcept|not(_eq)?|nullptr|operator|or(_eq)?|private|protected|public|register|return|short|"
    r"signed|sizeof|static|struct|switch|template|this|throw|true|try|typedef|typeid|typename|union|unsigned|using|"
    r"virtual|void|volatile|wchar_t|while|xor(_eq)?|std|tt|ckernel|main|kernel_main|u?int(8|16|32|64|ptr)_t|"
    r"(cb|noc|get)_.*|my_[xy]|[A-Z_][A-Z0-9_]+|"
    # of the library
    r"(take|give|put|copy|fill|zero|fetch|write|send|set|reserve|push|pop|wait|next|share|page|pages|words|tile|tiles|"
    r"in_tile|own|end|place)(_?\d+|_.*)?|smaller(_whole)?|larger_whole|floor_(div|mod)|float_bits|whole_power|rank_of|"
    r"is_nan|matrix_word|each_element|meet|gather|weights(_.*)?|[A-Z][a-z]+([A-Z][A-Za-z]*)?|"
    # of the kernels themselves
    r"state|scratch|vectors|bounce|cores?|first|last|count|rows?|columns?|unit|block|[ekr]|result|best|only|operands|left|"
    r"right|operand_slots|plane_slots|factor_pages|rows_pages|semaphore_(free|landed)|.*_(layout|in_dram)"
)
"""Words that no array or index may be called."""


def identifier(name: str, taken: Iterable[str] = ()) -> str:
    """A C++ name that reads like `name` and is none of the kernels' own, nor one of those `taken`."""
    first = found = plain(name)
    if found in taken or _RESERVED.fullmatch(found):
        found = f"{first}_values"
    while found in taken or _RESERVED.fullmatch(found):
        found = f"a_{found}_"
    return found


def index_name(i: Index) -> str:
    """The C++ name of an index."""
    found = plain(i.name)
    return f"at_{found}_" if _RESERVED.fullmatch(found) else found


def plain(name: str) -> str:
    """The name in letters, digits and `_`."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name.replace("'", "_next")).strip("_") or "value"
    return found if found[0].isalpha() else f"v{found}"


def share_name(split: Split) -> str:
    """The C++ name of a core's share of a split."""
    return f"own_{split.each}_of_{split.lead}"


def accessor(name: str) -> str:
    """The C++ name of a tensor in DRAM."""
    return f"{identifier(name)}_in_dram"
