"""Loading a generated model in the tree, where the scans are this package and not a copy beside it.

Input: the path of a generated `model.py`, or of the artefact folder that holds it.
Output: the module; its `Model` is ready to construct.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ALIAS = "cdrmix_scans"


def load_module(path: str | Path) -> ModuleType:
    """Import generated code by path; its `from cdrmix_scans import …` gets this package."""
    path = Path(path)
    if path.is_dir():
        path = path / "model.py"
    scans = importlib.import_module(__package__ or ALIAS)
    sys.modules.setdefault(ALIAS, scans)
    name = f"{ALIAS}_model_{abs(hash(str(path.resolve()))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up by name
    spec.loader.exec_module(module)
    return module
