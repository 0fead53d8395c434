"""Every raw SFPU function on one tile, against numpy's float64 (a script for the environment's private Python).

Output: one line of JSON, {function: worst error}; relative, or absolute where the table says so.
Arguments: the functions to check, all if none.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from programs import Device

HEADERS = """
#include <cstdint>
#include "api/compute/common.h"
#include "api/compute/compute_kernel_api.h"
#include "api/compute/tile_move_copy.h"
#include "api/compute/eltwise_binary_sfpu.h"
#include "api/compute/binary_max_min.h"
#include "api/compute/sfpu_binary_bcast.h"
#include "api/compute/copy_dest_values.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/eltwise_unary/exp.h"
#include "api/compute/eltwise_unary/log1p.h"
#include "api/compute/eltwise_unary/recip.h"
#include "api/compute/eltwise_unary/sqrt.h"
#include "api/compute/eltwise_unary/rsqrt.h"
#include "api/compute/eltwise_unary/trigonometry.h"
#include "api/compute/eltwise_unary/negative.h"
#include "api/compute/eltwise_unary/relu.h"
#include "api/compute/eltwise_unary/comp.h"
#include "api/compute/eltwise_unary/where.h"
#include "api/compute/eltwise_unary/fill.h"
#include "api/compute/eltwise_unary/binop_with_scalar.h"
#include "api/compute/eltwise_unary/bitwise.h"
#include "api/compute/eltwise_unary/rounding.h"
"""
# The operands x, y, z are copied to DST tiles 0, 1, 2 in turn; the result is DST tile 0.
STEP = """
    tile_regs_acquire();
    copy_init(0); copy_tile(0, 0, 0); copy_tile(1, 0, 1); copy_tile(2, 0, 2);
    {call}
    tile_regs_commit(); tile_regs_wait();
    cb_reserve_back(16, 1); pack_tile(0, 16); cb_push_back(16, 1);
    tile_regs_release();
"""
GROUP = 6  # functions in one kernel: its text must stay small


@dataclass(frozen=True)
class Function:
    call: str
    reference: Callable
    low: float
    high: float
    spread: str = "linear"  # or "log": magnitudes, all positive
    absolute: bool = False


def unary(name, reference, low, high, spread="linear", absolute=False):
    return Function(f"{name}_tile_init(); {name}_tile(0);", reference, low, high, spread, absolute)


def binary(name, reference):
    return Function(f"{name}_binary_tile_init(); {name}_binary_tile(0, 1, 0);", reference, -50, 50)


def scalar(name, reference):
    bits = int(np.float32(0.7).view(np.uint32))
    return Function(f"binop_with_scalar_tile_init(); {name}_unary_tile(0, {bits}u);", reference, -50, 50)


def truncated(x, mask):
    return (x.astype(np.float32).view(np.uint32) & np.uint32(mask)).view(np.float32).astype(np.float64)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
C = float(np.float32(0.7))
FUNCTIONS = {
    "add_binary": binary("add", lambda x, y, z: x + y),
    "sub_binary": binary("sub", lambda x, y, z: x - y),
    "mul_binary": binary("mul", lambda x, y, z: x * y),
    "div_binary": binary("div", lambda x, y, z: x / y),
    "binary_max": Function(
        "binary_max_tile_init(); binary_max_tile(0, 1, 0);", lambda x, y, z: np.maximum(x, y), -5, 5
    ),
    "binary_min": Function(
        "binary_min_tile_init(); binary_min_tile(0, 1, 0);", lambda x, y, z: np.minimum(x, y), -5, 5
    ),
    **{
        name: Function(
            f"{name}_binary_tile_init(); {name}_binary_tile(0, 1, 0);", lambda x, y, z, test=test: test(x, y), -5, 5
        )
        for name, test in COMPARISONS.items()
    },
    **{
        f"{name}_bcast_{way}": Function(
            f"sfpu_{name}_bcast_{way}_init(); sfpu_{name}_bcast_{way}(0, 1);",
            lambda x, y, z, of=of, way=way: of(x, y[:1] if way == "row" else y[:, :1]),
            -50,
            50,
        )
        for name, of in {"add": np.add, "sub": np.subtract, "mul": np.multiply}.items()
        for way in ("row", "col")
    },
    "log1p": unary("log1p", lambda x, y, z: np.log1p(x), -0.99, 3),
    "expm1": unary("expm1", lambda x, y, z: np.expm1(x), -5, 5),
    "power": Function("power_binary_tile_init(); power_binary_tile(0, 1, 0);", lambda x, y, z: x**y, -4, 4, "log"),
    "exp": unary("exp", lambda x, y, z: np.exp(x), -80, 80),
    "log": unary("log", lambda x, y, z: np.log(x), -30, 30, "log"),
    "sqrt": unary("sqrt", lambda x, y, z: np.sqrt(x), -30, 30, "log"),
    "rsqrt": unary("rsqrt", lambda x, y, z: 1 / np.sqrt(x), -30, 30, "log"),
    "recip": unary("recip", lambda x, y, z: 1 / x, -9, 9),
    "sigmoid": unary("sigmoid", lambda x, y, z: 1 / (1 + np.exp(-x)), -30, 30),
    "silu": unary("silu", lambda x, y, z: x / (1 + np.exp(-x)), -30, 30),
    "tanh": unary("tanh", lambda x, y, z: np.tanh(x), -4, 4),
    "sin": unary("sin", lambda x, y, z: np.sin(x), -1000, 1000, absolute=True),
    "cos": unary("cos", lambda x, y, z: np.cos(x), -1000, 1000, absolute=True),
    "abs": unary("abs", lambda x, y, z: np.abs(x), -5, 5),
    "sign": unary("sign", lambda x, y, z: np.sign(x), -5, 5),
    "negative": unary("negative", lambda x, y, z: -x, -5, 5),
    "square": unary("square", lambda x, y, z: x * x, -5, 5),
    "relu": unary("relu", lambda x, y, z: np.maximum(x, 0), -5, 5),
    "floor": Function("rounding_op_tile_init(); floor_tile(0);", lambda x, y, z: np.floor(x), -5, 5),
    "gtz": unary("gtz", lambda x, y, z: x > 0, -5, 5),
    "ltz": unary("ltz", lambda x, y, z: x < 0, -5, 5),
    "gez": unary("gez", lambda x, y, z: x >= 0, -5, 5),
    "lez": unary("lez", lambda x, y, z: x <= 0, -5, 5),
    "eqz": unary("eqz", lambda x, y, z: x == 0, -5, 5),
    "nez": unary("nez", lambda x, y, z: x != 0, -5, 5),
    "where": Function(
        "gtz_tile_init(); gtz_tile(0); where_tile_init(); where_tile<DataFormat::Float32>(0, 1, 2, 0);",
        lambda x, y, z: np.where(x > 0, y, z),
        -5,
        5,
    ),
    "fill": Function("fill_tile_init(); fill_tile(0, 0.7f);", lambda x, y, z: C + 0 * x, -5, 5),
    "add_unary": scalar("add", lambda x, y, z: x + C),
    "sub_unary": scalar("sub", lambda x, y, z: x - C),
    "mul_unary": scalar("mul", lambda x, y, z: x * C),
    "rsub_unary": scalar("rsub", lambda x, y, z: C - x),
    "bitwise_and": Function(
        "bitwise_and_tile_init(); bitwise_and_tile<DataFormat::Int32>(0, 0xffffe000u);",
        lambda x, y, z: truncated(x, 0xFFFFE000),
        -5,
        5,
    ),
    "copy_dest": Function(
        "copy_dest_values_init(); copy_dest_values<DataFormat::Float32>(1, 0);", lambda x, y, z: y, -5, 5
    ),
}


def operand(function, rng):
    if function.spread == "log":
        return np.exp(rng.uniform(function.low, function.high, (32, 32))).astype(np.float32)
    x = rng.uniform(function.low, function.high, (32, 32)).astype(np.float32)
    x[0, :8] *= 1e-3  # small ones too
    if "eqz" in function.call or "z_tile" in function.call or "sign" in function.call:
        x[1] = 0
        x[2] = -0.0
    return x


def error(function, got, operands):
    want = np.asarray(function.reference(*(v.astype(np.float64) for v in operands)), np.float64)
    size = 1.0 if function.absolute else np.maximum(np.abs(want), 1e-30)
    return float(np.max(np.abs(got - want) / size))


def check(device, names):
    rng = np.random.default_rng(0)
    errors = {}
    for start in range(0, len(names), GROUP):
        group = names[start : start + GROUP]
        operands = [[operand(FUNCTIONS[n], rng) for n in group]]
        operands += [[rng.uniform(-5, 5, (32, 32)).astype(np.float32) for _ in group] for _ in range(2)]
        for name, x, y in zip(group, *operands[:2], strict=True):
            if name in COMPARISONS:
                y[5] = x[5]
        pop = "cb_pop_front(0, 1); cb_pop_front(1, 1); cb_pop_front(2, 1);"
        wait = "cb_wait_front(0, 1); cb_wait_front(1, 1); cb_wait_front(2, 1);"
        body = "".join(wait + STEP.replace("{call}", FUNCTIONS[n].call) + pop for n in group)
        source = f"{HEADERS}\nvoid kernel_main() {{ compute_kernel_hw_startup(0, 16);\n{body}}}\n"
        got = device.through(source, [np.concatenate(o, 1) for o in operands], len(group), len(group))
        for i, name in enumerate(group):
            errors[name] = error(FUNCTIONS[name], got[:, 32 * i : 32 * i + 32], [o[i] for o in operands])
    return errors


if __name__ == "__main__":
    with Device() as device:
        print(json.dumps(check(device, sys.argv[1:] or list(FUNCTIONS))))
