"""JSON that every reader takes.

Input: mappings, lists, texts and numbers.  Output: JSON text.  JSON has no NaN and no Infinity: a number that is not
finite is `null`.  Half of a surrogate pair, as in a file's name that is not UTF-8, is U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any


def to_json(value: Any, indent: int | None = None, ascii: bool = True) -> str:
    """The value as JSON."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=ascii, allow_nan=False)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {_plain(key): _plain(x) for key, x in value.items()}
        case list() | tuple():
            return [_plain(x) for x in value]
        case str() if not value.isascii():
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        case float():
            return value if math.isfinite(value) else None
    return value
