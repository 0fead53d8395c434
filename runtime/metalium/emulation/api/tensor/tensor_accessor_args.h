// A tensor's description among the compile-time arguments: [config, page bytes], and for shards
// [banks, shape in pages ..., shard's shape in pages ..., coordinates of the banks, two a word ...].
#pragma once
#include <cstddef>
#include <cstdint>

#include "api/compile_time_args.h"

template <std::size_t CTA_OFFSET, std::size_t CRTA_OFFSET = std::size_t(-1)>
struct TensorAccessorArgs {
    static constexpr uint32_t config = get_compile_time_arg_val(CTA_OFFSET);
    static constexpr bool is_sharded = config & 1;
    static constexpr bool is_dram = config & 2;
    static_assert((config & ~3u) == 0, "accessor arguments at run time are not emulated");
    static constexpr uint32_t AlignedPageSize = get_compile_time_arg_val(CTA_OFFSET + 1);

private:
    template <uint32_t At>
    static constexpr uint32_t of_shards() {
        if constexpr (is_sharded) return get_compile_time_arg_val(CTA_OFFSET + At);
        return 0;
    }

public:
    static constexpr uint32_t RankCT = of_shards<2>();
    static constexpr uint32_t NumBanksCT = of_shards<3>() & 0x7FFFFFFFu;
    static constexpr uint32_t TensorShapeCTAOffset = CTA_OFFSET + 4;
    static constexpr uint32_t ShardShapeCTAOffset = TensorShapeCTAOffset + RankCT;
    static constexpr uint32_t BankCoordsCTAOffset = ShardShapeCTAOffset + RankCT;
    static constexpr uint32_t NumArgsCT = is_sharded ? 4 + 2 * RankCT + (NumBanksCT + 1) / 2 : 2;

    constexpr TensorAccessorArgs() = default;
    constexpr uint32_t get_aligned_page_size() const { return AlignedPageSize; }
    static constexpr uint32_t num_compile_time_args() { return NumArgsCT; }
    static constexpr uint32_t next_compile_time_args_offset() { return CTA_OFFSET + NumArgsCT; }
    constexpr uint32_t num_common_runtime_args() const { return 0; }
};
