"""Names and texts of a spec on their way into C: the only door.

Input: any text.  Output: an identifier that no keyword, macro or library function is, unique in its `Scope`; a comment
that cannot end early; a string literal that means exactly its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_KEYWORDS = re.compile(
    r"auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|int|long|register|"
    r"restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|while|asm|bool|catch|"
    r"class|constexpr|false|new|nullptr|operator|private|public|template|this|throw|true|try|typeof(_unqual)?|using|"
    r"alignas|alignof|static_assert|thread_local|noreturn|complex|imaginary|linux|unix|i386|near|far|vector|pixel"
)
_LIBRARY = re.compile(
    r"cdr_.*|errno|stdin|stdout|stderr|assert|offsetof|main|signgam|math_errhandling|signbit|isnan|isinf|isfinite|"
    r"isnormal|fpclassify|is(greater|less)(equal)?|islessgreater|isunordered|mem(cpy|set|move|cmp|chr)|malloc|free|calloc|"
    r"u?int(ptr|max)?(8|16|32|64)?_.*|u?int_(least|fast).*|size_t|ptrdiff_t|wchar_t|max_align_t|"
    r"(a?(cos|sin|tan)h?|atan2|exp2?|expm1|frexp|i?logb|ldexp|log(2|10|1p)?|modf|scal(b|bl)n|cbrt|fabs|hypot|pow|sqrt|"
    r"erfc?|[lt]gamma|ceil|floor|(near|l?l?)r?int|l?l?round|trunc|fmod|remainder|remquo|copysign|nan|nextafter|"
    r"nexttoward|fdim|fmax|fmin|fma|[jy][01n])[fl]?"
)
_SHOUTED = re.compile(r"[A-Z_][A-Z0-9_]+")
"""Words in capitals are the macros of the standard headers, and of anyone's."""


def identifier(text: str) -> str:
    """A C identifier that reads like `text`."""
    plain = re.sub(r"[^A-Za-z0-9_]", lambda m: "_" if m[0] in ".- " else f"_u{ord(m[0]):x}", text)
    if not plain or not plain[0].isalpha():
        plain = f"n{plain}"
    taken = _KEYWORDS.fullmatch(plain) or _LIBRARY.fullmatch(plain) or _SHOUTED.fullmatch(plain)
    return f"{plain}_" if taken else plain


class Scope:
    """Hands out identifiers, each once; `taken` are the generator's own in the same scope."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = set(taken)

    def name(self, wanted: str) -> str:
        """An identifier like `wanted` that this scope has not given yet."""
        first = found = identifier(wanted)
        count = 1
        while found in self._taken:
            count += 1
            found = f"{first.rstrip('_')}_{count}"
        self._taken.add(found)
        return found

    def child(self, taken: Iterable[str] = ()) -> Scope:
        """A scope inside this one: it knows the names given so far, and gives its own."""
        return Scope({*self._taken, *taken})


def comment(text: str) -> str:
    """The text for a `/* … */`: one line of printable ASCII that cannot end the comment or splice lines."""
    shown = "".join(c if " " <= c <= "~" else " " if c in "\n\t\r" else "?" for c in text)
    shown = shown.replace("\\", "|").replace("??", "? ?")
    while "*/" in shown or "/*" in shown or "??" in shown:
        shown = shown.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")
    return shown.strip().rstrip("/*") if shown.strip().endswith(("/", "*")) else shown.strip()


def string(text: str) -> str:
    """The C string literal of the text, in UTF-8."""
    plain = "".join(
        chr(b) if (b < 0x7F and b >= 0x20 and chr(b) not in '"\\?%') else f"\\{b:03o}" for b in text.encode("utf-8")
    )
    return f'"{plain}"'
