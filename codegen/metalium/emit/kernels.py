"""The kernels of a plan as TT-Metalium C++.

Input: a `ModelPlan`.
Output: `kernels/<program>_{reader,compute,writer}.cpp` by name.  What a step does is said by the rules in `writer` and
`compute`; the template holds the frame around the steps.  Which headers, arrays and numbers a kernel names is known
from its steps.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cdrmix.ir.backend import fill
from cdrmix.ir.steps import Map, Product, Step

from ..plan import Fetch, ModelPlan, Program, Split, Tensor, Write
from .amounts import ZERO, own_elements
from .buffers import FLAT_PAGE, WEIGHT_BATCH, Setting, is_spread, plane_slots, products, setting_of
from .compute import compute_steps, reader_step
from .names import accessor, identifier, share_name
from .writer import writer_step

ROLES = ("reader", "compute", "writer")
_CORE, _STATE, _FIRST_TENSOR = 0, 1, 2
"""Runtime arguments that every kernel has, before its tensors' addresses."""
_THIS_CORE = f"const uint32_t core = get_arg_val<uint32_t>({_CORE});"
WIDTH = 120
_ABOUT = {
    "reader": "the reader.  It streams the weights in the order in which they lie in DRAM, as far ahead as there is "
    "room, and waits for nothing but the picks of experts.",
    "compute": "the compute kernel.  Its steps are those of the writer that compute something, in the same order.",
    "writer": "the writer.  It carries out the steps one after the other: puts operands together, takes results back "
    "into L1, and does whatever only moves.",
}
_FLOW = {
    "reader": "DRAM --> cb_weights --> compute",
    "compute": "cb_in --SFPU--> cb_out      cb_rows x cb_weights --FPU--> cb_out      "
    "cb_left x cb_right --FPU--> cb_out",
    "writer": "arrays in L1 --> cb_in, cb_rows, cb_left, cb_right --> compute --> cb_out --> arrays in L1 --> "
    "other cores, DRAM",
}
_BUFFERS = {
    "reader": ("cb_weights", "cb_picks"),
    "compute": ("cb_weights", "cb_rows", "cb_in", "cb_left", "cb_right", "cb_out"),
    "writer": ("cb_rows", "cb_in", "cb_left", "cb_right", "cb_picks", "cb_out", "cb_bounce", "cb_scratch",
               "cb_vectors"),
}  # fmt: skip
"""The circular buffers that a kernel names where the program has them."""


def kernel_file(program: str, role: str) -> str:
    """Where a kernel lies in the artefact."""
    return f"kernels/{program}_{role}.cpp"


Written = tuple[set[str], list[str], list[tuple[Step, list[str]]]]
"""A kernel's headers, what stands in front of its steps, and the lines of each step."""


def emit_kernels(plan: ModelPlan) -> dict[str, str]:
    """See the module."""
    found: dict[str, str] = {}
    for name, program in plan.programs.items():
        setting = setting_of(program)
        for role, write in zip(ROLES, (reader, compute, writer), strict=True):
            found[kernel_file(name, role)] = fill(__package__, "kernel.cpp.j2", frame(role, setting, *write(setting)))
    return found


def writer(setting: Setting) -> Written:
    """The writer's parts."""
    program, headers = setting.program, set[str]()
    steps = [(step, writer_step(setting, number, headers)) for number, step in enumerate(program.steps)]
    touched = {name for step in program.steps for name in (*step.parts.reads, *step.parts.outs)}
    splits = {a.split for name, a in program.arrays.items() if name in touched} | _streams(program)
    start = [_THIS_CORE, *_shares(program, splits)]
    if any(a.memory == "state" for a in program.arrays.values()):
        start.append(f"const uint32_t state = get_arg_val<uint32_t>({_STATE});")
    for name in ("scratch", "vectors", "bounce"):
        if setting.has(f"cb_{name}"):
            start.append(f"const uint32_t {name} = get_write_ptr(cb_{name});")
    if setting.semaphores:
        start.append(f"const Cores cores{{{program.cores}, core, {_FIRST_TENSOR + len(setting.writer)}}};")
    start += _accessors(setting.writer)
    for name, array in program.arrays.items():
        if name in touched:
            first = own_elements(array)[0]
            of_all = str(first) if first == ZERO else f"static_cast<int32_t>({first})"
            start.append(f"const Array {setting.names[name]}{{{array.memory} + {array.offset}, {of_all}}};")
    for tensor in setting.writer:
        if tensor.kind == "vectors":
            pages = -(-program.vectors_bytes // FLAT_PAGE)
            start.append(f"fetch_pages({accessor(tensor.name)}, vectors, {pages}, {FLAT_PAGE});")
            headers.add("dram.h")
    zeroed = {"in": "operand_slots", "rows": "rows_pages", "left": "factor_pages", "right": "factor_pages"}
    for name, slots in zeroed.items():
        if setting.has(f"cb_{name}"):
            start.append(f"zero_words(get_write_ptr(cb_{name}), {slots} * TILE_ELEMENTS);")
    return headers or {"l1_memory.h"}, start, [(step, lines) for step, lines in steps if lines]


def compute(setting: Setting) -> Written:
    """The compute kernel's parts."""
    program = setting.program
    computing = [s for s in program.steps if isinstance(s, Map | Product)]
    splits = {program.arrays[s.parts.outs[0]].split for s in computing} | _streams(program)
    start = list(_shares(program, splits))
    if start:
        start.insert(0, _THIS_CORE)
    if setting.has("cb_rows"):
        right = "cb_weights" if setting.has("cb_weights") else "cb_right"
        start.append(f"compute_kernel_hw_startup<SrcOrder::Reverse>(cb_rows, {right}, cb_out);")
    elif setting.has("cb_left"):
        start.append("compute_kernel_hw_startup<SrcOrder::Reverse>(cb_left, cb_right, cb_out);")
    elif setting.has("cb_out"):
        start.append(f"compute_kernel_hw_startup({'cb_in' if setting.has('cb_in') else 'cb_out'}, cb_out);")
    headers = {"compute_steps.h"}
    if any(is_spread(program, s) for s in products(program)):
        headers.add("add_rows.h")
    if any(isinstance(s, Map) and s.value.op != "operand" for s in program.steps):
        headers.add("elementwise.h")
    return headers, start, list(compute_steps(setting))


def reader(setting: Setting) -> Written:
    """The reader's parts."""
    program = setting.program
    steps = [(step, lines) for step in program.steps if (lines := reader_step(setting, step))]
    start = [*([_THIS_CORE] if steps else []), *_shares(program, _streams(program, whole=False))]
    start += _accessors(setting.reader)
    if setting.has("cb_weights"):
        start.append("WeightStream weights(cb_weights, weights_pages, weights_page_bytes, weights_batch);")
    return {"weights.h" if steps else "l1_memory.h"}, start, steps


# --- the frame -----------------------------------------------------------------------------------------------------
def comment(step: Step) -> list[str]:
    """What a step makes, and below it the equations that it is of."""
    made = ", ".join(step.parts.outs) or (step.tensor if isinstance(step, Fetch | Write) else "")
    return [*_wrapped(made), *(line for text in dict.fromkeys(step.texts) for line in _wrapped(text, "    "))]


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Text as comment lines that cannot run on into the code."""
    plain, inner = " ".join(text.split()), f"{indent}    "
    lines = textwrap.wrap(plain, WIDTH - 7, initial_indent=indent, subsequent_indent=inner, break_on_hyphens=False)
    return [f"// {line}".rstrip("\\") for line in lines]


def _accessors(tensors: Iterable[Tensor]) -> Iterator[str]:
    """An accessor for each tensor: compile-time arguments one behind the other, addresses from the third argument."""
    offset = "0"
    for number, tensor in enumerate(tensors):
        layout = f"{identifier(tensor.name)}_layout"
        yield f"constexpr auto {layout} = TensorAccessorArgs<{offset}>();"
        address = f"get_arg_val<uint32_t>({_FIRST_TENSOR + number})"
        yield f"const auto {accessor(tensor.name)} = TensorAccessor({layout}, {address}, {page_bytes(tensor)});"
        offset = f"{layout}.next_compile_time_args_offset()"


def page_bytes(tensor: Tensor) -> int:
    """Bytes of a page of a tensor in DRAM."""
    match tensor.kind:
        case "tiles":
            return 2048
        case "vectors":
            return FLAT_PAGE
        case "rows":
            size = tensor.shape[-1] * (2 if tensor.dtype == "bf16" else 4)
            return -(-size // 64) * 64


def _streams(program: Program, whole: bool = True) -> set[Split | None]:
    """The splits of the program's streamed products; those of which every core has all too, if `whole`."""
    tensors = [program.tensors[s.streamed].tiled for s in products(program) if s.streamed]
    return {t.split for t in tensors if t is not None and (whole or not t.lead or t.split.each != t.split.lead)}


def _shares(program: Program, used: set[Split | None]) -> Iterator[str]:
    """The core's share of each way in which things are dealt out that a kernel uses."""
    known = [a.split for a in program.arrays.values()]
    known += [t.tiled.split for t in program.tensors.values() if t.tiled is not None]
    for split in dict.fromkeys(known):
        if split is not None and split in used:
            yield f"const Share {share_name(split)} = share_of(core, {split.lead}, {split.each});"


def frame(
    role: str, setting: Setting, headers: set[str], prologue: Sequence[str], steps: Sequence[tuple[Step, list[str]]]
) -> Mapping[str, Any]:
    """What the template is given: the headers and names that the lines need, and the lines."""
    constants = {b.name: f"tt::CBIndex::c_{b.index}" for b in setting.buffers if b.name in _BUFFERS[role]}
    constants |= {name: str(value) for name, value in _numbers(role, setting)}
    return {
        "title": _wrapped(f"{setting.program.title}: {_ABOUT[role]}"),
        "flow": _FLOW[role],
        "headers": sorted(headers),
        "constants": [f"constexpr uint32_t {name} = {value};" for name, value in constants.items()],
        "prologue": prologue,
        "steps": [{"comment": comment(step), "lines": lines} for step, lines in steps],
    }


def _numbers(role: str, setting: Setting) -> Iterator[tuple[str, int]]:
    """Numbers about circular buffers that a kernel names."""
    buffers = {b.name: b for b in setting.buffers}
    if role == "reader":
        if weights := buffers.get("cb_weights"):
            yield from (("weights_pages", weights.pages), ("weights_page_bytes", weights.page_bytes))
            yield "weights_batch", WEIGHT_BATCH
        return
    if "cb_in" in buffers:
        yield "operand_slots", setting.slots
    if role == "writer" and setting.semaphores:
        yield from (("semaphore_free", 0), ("semaphore_landed", 1))
    if role == "writer" and "cb_rows" in buffers:
        yield "rows_pages", buffers["cb_rows"].pages
    if "cb_right" in buffers:
        yield "plane_slots", plane_slots(setting.program)
        if role == "writer":
            yield "factor_pages", buffers["cb_right"].pages
