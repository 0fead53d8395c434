"""The kernels of a plan as TT-Metalium C++.

Input: a `ModelPlan`.
Output: `kernels/<program>_{reader,compute,writer}.cpp` by name.  What a step does is said by the rules in
`writer_text`, `compute_text` and `reader_text`; the templates hold the frame around the steps.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .compute_text import compute_step, mode
from .moves import mentions, own_elements
from .plan import ModelPlan, Product, Program, Split, Step, Tensor
from .reader_text import reader_step
from .setting import (
    FLAT_PAGE,
    WEIGHT_BATCH,
    Setting,
    identifier,
    plane_slots,
    setting_of,
    share_name,
)
from .uses import outs
from .writer_text import writer_step

ROLES = ("reader", "compute", "writer")
_CORE, _STATE, _FIRST_TENSOR = 0, 1, 2
"""Runtime arguments that every kernel has, before its tensors' addresses."""
WIDTH = 120
_ABOUT = {
    "reader": "the reader.  It streams the weights in the order in which they lie in DRAM, as far ahead as there is "
    "room, and waits for nothing but the picks of experts.",
    "compute": "the compute kernel.  Its steps are those of the writer that compute something, in the same order.",
    "writer": "the writer.  It carries out the steps one after the other: puts operands together, takes results back "
    "into L1, and does whatever only moves.",
}
_HEADERS: Mapping[str, str] = {
    "weights.h": "send_pick next_pick WeightStream",
    "gather.h": "meet gather",
    "dram.h": "fetch_pages fetch_words fetch_halves write_words",
    "top_k.h": "TopK Extreme",
    "integers.h": "floor_div floor_mod larger_whole smaller_whole whole_power float_bits",
    "rows.h": "spread_row collect_rows PLAIN_ROW",
    "matrix_tiles.h": "put_row put_column take_row take_run take_row_values take_column_values zero_row give_row "
    "give_tile matrix_word",
    "tile_maps.h": "take_values take_runs take_repeats take_elements give_runs give_elements set_elements copy_runs "
    "page_of",
    "walk.h": "each_element",
    "l1_memory.h": "",
}
"""Headers of the library that data-movement kernels include, by what they are included for."""


def kernel_file(program: str, role: str) -> str:
    """Where a kernel lies in the artefact."""
    return f"kernels/{program}_{role}.cpp"


def emit_kernels(plan: ModelPlan) -> dict[str, str]:
    """See the module."""
    found: dict[str, str] = {}
    for name, program in plan.programs.items():
        setting = setting_of(program)
        for role, text in zip(ROLES, (reader(setting), compute(setting), writer(setting)), strict=True):
            found[kernel_file(name, role)] = text
    return found


def writer(setting: Setting) -> str:
    """The writer's source."""
    program = setting.program
    steps = _steps(program, lambda number, step: writer_step(setting, number))
    lines = [line for step in steps for line in step["lines"]]
    arguments = list(_accessors(setting.writer))
    start: list[str] = []
    for name, buffer in (("scratch", "cb_scratch"), ("vectors", "cb_vectors"), ("bounce", "cb_bounce")):
        if setting.has(buffer):
            start.append(f"const uint32_t {name} = get_write_ptr({buffer});")
    if any(a.memory == "state" for a in program.arrays.values()):
        start.insert(0, f"const uint32_t state = get_arg_val<uint32_t>({_STATE});")
    if setting.semaphores:
        coordinates = _FIRST_TENSOR + len(setting.writer)
        start.append(f"const Cores cores{{{program.cores}, core, {coordinates}}};")
    start += [*arguments, *_arrays(setting, lines)]
    for tensor in setting.writer:
        if tensor.kind == "vectors":
            pages = -(-program.vectors_bytes // FLAT_PAGE)
            start.append(f"fetch_pages({identifier(tensor.name)}_in_dram, vectors, {pages}, {FLAT_PAGE});")
    if setting.has("cb_in"):
        start.append("zero_words(get_write_ptr(cb_in), operand_slots * TILE_ELEMENTS);")
    if setting.has("cb_rows"):
        start.append("zero_words(get_write_ptr(cb_rows), rows_pages * TILE_ELEMENTS);")
    if setting.has("cb_left"):
        start.append("zero_words(get_write_ptr(cb_left), factor_pages * TILE_ELEMENTS);")
    if setting.has("cb_right"):
        start.append("zero_words(get_write_ptr(cb_right), factor_pages * TILE_ELEMENTS);")
    prologue = [*_shares(program, [*lines, *start]), *start]
    return _render("writer", setting, prologue, steps)


def compute(setting: Setting) -> str:
    """The compute kernel's source."""
    program = setting.program
    steps, current = [], None
    for step in program.steps:
        wanted = mode(program, step)
        if wanted is None:
            continue
        body = compute_step(setting, step)
        if wanted and wanted != current:
            body = [wanted, *body]
        current = wanted or (None if isinstance(step, Product) else current)
        steps.append({"comment": comment(step), "lines": body})
    lines = [line for step in steps for line in step["lines"]]
    prologue = list(_shares(program, lines))
    if prologue:
        prologue.insert(0, f"const uint32_t core = get_arg_val<uint32_t>({_CORE});")
    if setting.has("cb_weights"):
        prologue.append("compute_kernel_hw_startup<SrcOrder::Reverse>(cb_rows, cb_weights, cb_out);")
    elif setting.has("cb_rows"):
        prologue.append("compute_kernel_hw_startup<SrcOrder::Reverse>(cb_rows, cb_right, cb_out);")
    elif setting.has("cb_left"):
        prologue.append("compute_kernel_hw_startup<SrcOrder::Reverse>(cb_left, cb_right, cb_out);")
    elif setting.has("cb_in"):
        prologue.append("compute_kernel_hw_startup(cb_in, cb_out);")
    elif setting.has("cb_out"):
        prologue.append("compute_kernel_hw_startup(cb_out, cb_out);")
    return _render("compute", setting, prologue, steps)


def reader(setting: Setting) -> str:
    """The reader's source."""
    program = setting.program
    steps = _steps(program, lambda number, step: reader_step(setting, step))
    lines = [line for step in steps for line in step["lines"]]
    prologue = [*_shares(program, lines), *_accessors(setting.reader)]
    if any(mentions(line, "core") for line in [*lines, *prologue]):
        prologue.insert(0, f"const uint32_t core = get_arg_val<uint32_t>({_CORE});")
    if setting.has("cb_weights"):
        prologue.append("WeightStream weights(cb_weights, weights_pages, weights_page_bytes, weights_batch);")
    return _render("reader", setting, prologue, steps)


# --- the frame -----------------------------------------------------------------------------------------------------
def _steps(program: Program, lines: Callable[[int, Step], Sequence[str]]) -> list[dict[str, Any]]:
    """Steps that have lines, with their comments."""
    found = []
    for number, step in enumerate(program.steps):
        own = lines(number, step)
        if own:
            found.append({"comment": comment(step), "lines": own})
    return found


def comment(step: Step) -> list[str]:
    """What a step makes, and below it the equations that it is of."""
    made = ", ".join(outs(step)) or getattr(step, "tensor", "")
    equations = dict.fromkeys(part.strip() for part in step.text.split(";"))
    return [*_wrapped(made), *(line for e in equations if e for line in _wrapped(e, "    "))]


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Text as comment lines that cannot run on into the code."""
    lines = textwrap.wrap(
        " ".join(text.split()),
        WIDTH - 7,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_on_hyphens=False,
    )
    return [f"// {line}".rstrip("\\") for line in lines]


def _accessors(tensors: Iterable[Tensor]) -> Iterator[str]:
    """An accessor for each tensor: compile-time arguments one behind the other, addresses from the third argument."""
    offset = "0"
    for number, tensor in enumerate(tensors):
        name = identifier(tensor.name)
        yield f"constexpr auto {name}_layout = TensorAccessorArgs<{offset}>();"
        yield (
            f"const auto {name}_in_dram = TensorAccessor({name}_layout, "
            f"get_arg_val<uint32_t>({_FIRST_TENSOR + number}), {page_bytes(tensor)});"
        )
        offset = f"{name}_layout.next_compile_time_args_offset()"


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


def _arrays(setting: Setting, lines: Sequence[str]) -> Iterator[str]:
    """The arrays that the lines mention, each at its place."""
    for name, array in setting.program.arrays.items():
        own = setting.names[name]
        if any(mentions(line, own) for line in lines):
            yield f"const Array {own}{{{array.memory} + {array.offset}, {_first(own_elements(array)[0])}}};"


def _first(text: str) -> str:
    return text if text == "0" else f"static_cast<int32_t>({text})"


def _shares(program: Program, lines: Sequence[str]) -> Iterator[str]:
    """The core's share of each way in which things are dealt out."""
    splits: dict[Split, None] = {}
    for array in program.arrays.values():
        if array.split is not None:
            splits[array.split] = None
    for tensor in program.tensors.values():
        if tensor.tiled is not None:
            splits[tensor.tiled.split] = None
    for split in splits:
        if any(mentions(line, share_name(split)) for line in lines):
            yield f"const Share {share_name(split)} = share_of(core, {split.lead}, {split.each});"


def _render(role: str, setting: Setting, prologue: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> str:
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{role}.cpp.j2").render(frame(role, setting, prologue, steps))
    return re.sub(r"\n{3,}", "\n\n", text)


def frame(
    role: str, setting: Setting, prologue: Sequence[str], steps: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """What a template is given: the headers and names that the lines need, and the lines."""
    lines = [*prologue, *(line for step in steps for line in step["lines"])]
    known = [b for b in setting.buffers if any(mentions(line, b.name) for line in lines)]
    constants = [f"constexpr uint32_t {b.name} = tt::CBIndex::c_{b.index};" for b in known]
    for name, value in _sizes(setting).items():
        if any(mentions(line, name) for line in lines):
            constants.append(f"constexpr uint32_t {name} = {value};")
    return {
        "title": _wrapped(f"{setting.program.title}: {_ABOUT[role]}"),
        "headers": _headers(role, lines),
        "constants": constants,
        "prologue": prologue,
        "steps": steps,
    }


def _sizes(setting: Setting) -> dict[str, int]:
    """Numbers about circular buffers that the kernels name."""
    found = {"operand_slots": setting.slots, "semaphore_free": 0, "semaphore_landed": 1}
    for b in setting.buffers:
        if b.name == "cb_weights":
            found |= {"weights_pages": b.pages, "weights_page_bytes": b.page_bytes, "weights_batch": WEIGHT_BATCH}
        if b.name == "cb_rows":
            found["rows_pages"] = b.pages
        if b.name == "cb_right":
            found |= {"plane_slots": plane_slots(setting.program), "factor_pages": b.pages}
    return found


def _headers(role: str, lines: Sequence[str]) -> list[str]:
    if role == "compute":
        more = {"add_rows.h": "add_rows", "elementwise.h": "tile::"}
        return sorted(["compute_steps.h", *(h for h, n in more.items() if any(n in line for line in lines))])
    words = {word for line in lines for word in re.findall(r"\w+", line)}
    return sorted(h for h, names in _HEADERS.items() if words & set(names.split())) or ["l1_memory.h"]
