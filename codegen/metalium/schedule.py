"""The schedule of a model: what one core would do, line by line.

Input: a program of the compiler.  Output: a `plan.ModelPlan` without a device, its arrays without places; how the work
is dealt out to cores is decided afterwards.
"""

from __future__ import annotations

from .lines import schedule

__all__ = ["schedule"]
