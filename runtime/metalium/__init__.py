"""What runs a `tenstorrent` artefact: its host program over ttnn, and an emulation of the few ttnn names it uses.

`host.py`, `states.py` and `weights.py` go into each artefact, where they run by themselves; `engine.py` is the
session's side of them; `kernels/` holds the headers of the generated kernels.
"""
