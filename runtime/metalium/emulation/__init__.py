"""An emulated Tensix card: `machine/` in C++, `api/` the device API's headers over it, and the host's side in Python.

`build` compiles kernels, `card` is the machine over ctypes, `tensors` and `descriptors` are ttnn's classes of that
name.  What is emulated and what is not: machine/machine.h.
"""
