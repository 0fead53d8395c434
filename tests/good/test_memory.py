"""What a training process asks of malloc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from cdrmix.train.place import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for n in range(12):
    if n == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of ten uses of 64 MB after the first two."""
    command, around = [sys.executable, "-c", FAULTS, how], {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    return int(subprocess.run(command, env=around, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is asked on Linux only")
def test_freed_memory_is_used_again() -> None:
    given_back = faults("leave")
    if given_back < 1000:
        pytest.skip("this malloc keeps freed memory anyway")
    assert faults("keep") < given_back / 10
