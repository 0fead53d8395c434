"""Small programs for the simulator, written with ttnn alone (for the environment's private Python).

`Device` opens the device; `tiles`/`rows` put arrays on it and `back` reads them; `kernel` and `buffer` are short forms
of the descriptors; `launch` runs a program. READ and WRITE are data-movement kernels for tiles.
"""

import numpy as np
import ttnn

READ = """
#include <stdint.h>
#include "api/dataflow/dataflow_api.h"
template <uint32_t I, uint32_t OFFSET> inline void read(uint32_t tiles) {
    constexpr auto args = TensorAccessorArgs<OFFSET>();
    const auto tensor = TensorAccessor(args, get_arg_val<uint32_t>(I), get_tile_size(I));
    for (uint32_t i = 0; i < tiles; i++) {
        cb_reserve_back(I, 1);
        noc_async_read_page(i, tensor, get_write_ptr(I));
        noc_async_read_barrier();
        cb_push_back(I, 1);
    }
    if constexpr (I + 1 < INPUTS) read<I + 1, args.next_compile_time_args_offset()>(tiles);
}
void kernel_main() { read<0, 0>(get_arg_val<uint32_t>(INPUTS)); }
"""
WRITE = """
#include <stdint.h>
#include "api/dataflow/dataflow_api.h"
void kernel_main() {
    constexpr auto args = TensorAccessorArgs<0>();
    const auto tensor = TensorAccessor(args, get_arg_val<uint32_t>(0), get_tile_size(16));
    for (uint32_t i = 0; i < get_arg_val<uint32_t>(1); i++) {
        cb_wait_front(16, 1);
        noc_async_write_page(i, tensor, get_read_ptr(16));
        noc_async_write_barrier();
        cb_pop_front(16, 1);
    }
}
"""
PAGE = {ttnn.float32: 4096, ttnn.bfloat16: 2048}


def grid(width=1, height=1):
    corner = ttnn.CoreCoord(width - 1, height - 1)
    return ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), corner)])


def buffer(index, pages, dtype=ttnn.float32, cores=None):
    shape = ttnn.CBFormatDescriptor(buffer_index=index, data_format=dtype, page_size=PAGE[dtype])
    return ttnn.CBDescriptor(total_size=pages * PAGE[dtype], core_ranges=cores or grid(), format_descriptors=[shape])


def accessors(*tensors):
    return [word for t in tensors for word in ttnn.TensorAccessorArgs(t).get_compile_time_args()]


def kernel(source, config, compiled=(), arguments=(), cores=None, each=None, defines=()):
    """`arguments` for every core, or `each(core)` for each."""
    cores = cores or grid()
    given = [(c, list(each(c) if each else arguments)) for c in ttnn.corerange_to_cores(cores)]
    return ttnn.KernelDescriptor(
        kernel_source=source,
        source_type=ttnn.KernelDescriptor.SourceType.SOURCE_CODE,
        core_ranges=cores,
        compile_time_args=list(compiled),
        runtime_args=given,
        config=config,
        defines=list(defines),
    )


def compute(exact_inputs=()):
    """fp32 in DST; the circular buffers in `exact_inputs` reach it with all their bits (and may not feed the FPU)."""
    config = ttnn.ComputeConfigDescriptor(math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True)
    modes = [
        ttnn.UnpackToDestMode.UnpackToDestFp32 if i in exact_inputs else ttnn.UnpackToDestMode.Default
        for i in range(64)
    ]  # as many as Blackhole has circular buffers; Wormhole takes the first 32
    config.unpack_to_dest_mode = ttnn._ttnn.program_descriptor.VectorUnpackToDestMode(modes)
    return config


class Device:
    def __enter__(self):
        self.device = ttnn.open_device(device_id=0)
        return self

    def __exit__(self, *_):
        ttnn.close_device(self.device)

    def tiles(self, array, dtype=ttnn.float32):
        array = np.ascontiguousarray(array, np.float32)
        return ttnn.Tensor(array.reshape(1, 1, *array.shape[-2:]), dtype, self.device, ttnn.TILE_LAYOUT)

    def rows(self, array, dtype=ttnn.float32):
        return ttnn.Tensor(np.ascontiguousarray(array), dtype, self.device, ttnn.ROW_MAJOR_LAYOUT)

    def launch(self, kernels, buffers, tensors, semaphores=()):
        ttnn.generic_op(tensors, ttnn.ProgramDescriptor(kernels=kernels, semaphores=list(semaphores), cbs=buffers))
        ttnn.synchronize_device(self.device)

    def through(self, source, inputs, tiles_in, tiles_out, exact=True, dtype=ttnn.float32):
        """Run a compute kernel: the inputs' tiles arrive in CB 0, 1, …; [32, 32 tiles_out] comes back from CB 16."""
        tensors = [self.tiles(x, dtype) for x in inputs]
        result = self.tiles(np.zeros((32, 32 * tiles_out)))
        self.launch(
            [
                kernel(
                    READ.replace("INPUTS", str(len(inputs))),
                    ttnn.ReaderConfigDescriptor(),
                    accessors(*tensors),
                    [t.buffer_address() for t in tensors] + [tiles_in],
                ),
                kernel(WRITE, ttnn.WriterConfigDescriptor(), accessors(result), [result.buffer_address(), tiles_out]),
                kernel(source, compute(range(len(inputs)) if exact else ())),
            ],
            [*(buffer(i, tiles_in, dtype) for i in range(len(inputs))), buffer(16, 2)],
            [*tensors, result],
        )
        return back(result)[0, 0]


def back(tensor):
    return np.asarray(tensor.cpu().to(ttnn.ROW_MAJOR_LAYOUT).to_numpy())
