"""Loading a generated model in the tree, where the scans are this package and not a copy beside it.

Input: the path of a generated `model.py`, or of the artefact folder that holds it.
Output: the module; its `Model` is ready to construct.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ALIAS = "cdrmix_scans"


class _Source(SourceFileLoader):
    """Always compiles the text: bytecode of one as long, written in the same second, would be taken for its own."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the file as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def load_module(path: str | Path) -> ModuleType:
    """Import generated code by path; its `from cdrmix_scans import …` gets this package."""
    path = Path(path)
    if path.is_dir():
        path = path / "model.py"
    scans = importlib.import_module(__package__ or ALIAS)
    sys.modules.setdefault(ALIAS, scans)
    name = f"{ALIAS}_model_{abs(hash(str(path.resolve()))):x}"
    loader = _Source(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up by name
    loader.exec_module(module)
    return module
