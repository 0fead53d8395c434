// Where a tensor's pages lie: interleaved over the banks of DRAM or L1, or in shards on cores.
#pragma once
#include <cstddef>
#include <cstdint>

#include "api/tensor/tensor_accessor_args.h"
#include "calls.h"

template <typename Args>
struct TensorAccessor {
    static constexpr bool is_dram = Args::is_dram;

    template <std::size_t CTA_OFFSET, std::size_t CRTA_OFFSET>
    TensorAccessor(const TensorAccessorArgs<CTA_OFFSET, CRTA_OFFSET>&, const std::size_t bank_base_address_in,
                   const uint32_t page_size_in = TensorAccessorArgs<CTA_OFFSET, CRTA_OFFSET>::AlignedPageSize)
        : page_size(page_size_in),
          bank_base_address(uint32_t(bank_base_address_in)) {}

    FORCE_INLINE uint32_t get_aligned_page_size() const { return page_size; }
    FORCE_INLINE uint32_t get_bank_base_address() const { return bank_base_address; }

    FORCE_INLINE std::uint64_t get_noc_addr(const uint32_t page_id, const uint32_t offset = 0, uint8_t = 0) const {
        if constexpr (!Args::is_sharded)
            return emulation::page_address(bank_base_address, page_size, page_id, offset, is_dram);
        else
            return shard_address(page_id, offset);
    }

    const uint32_t page_size;

private:
    const uint32_t bank_base_address;

    std::uint64_t shard_address(uint32_t page, uint32_t offset) const {
        uint32_t shard = 0, in_shard = 0, shards = 1, pages = 1;
        for (uint32_t axis = Args::RankCT; axis-- > 0;) {
            const uint32_t extent = kernel_compile_time_args[Args::TensorShapeCTAOffset + axis];
            const uint32_t part = kernel_compile_time_args[Args::ShardShapeCTAOffset + axis];
            const uint32_t at = page % extent;
            page /= extent;
            shard += at / part * shards;
            in_shard += at % part * pages;
            shards *= (extent + part - 1) / part;
            pages *= part;
        }
        const uint32_t bank = shard % Args::NumBanksCT;
        const uint32_t word = kernel_compile_time_args[Args::BankCoordsCTAOffset + bank / 2];
        const uint32_t xy = bank % 2 ? word >> 16 : word & 0xFFFF;
        const uint32_t address = bank_base_address + (shard / Args::NumBanksCT * pages + in_shard) * page_size + offset;
        if constexpr (is_dram) return emulation::bank_address(xy >> 8, address, true);
        return std::uint64_t(xy & 0xFF) << (emulation::ADDRESS_BITS + emulation::NODE_BITS) |
               std::uint64_t(xy >> 8) << emulation::ADDRESS_BITS | address;
    }
};

template <std::size_t CTA_OFFSET, std::size_t CRTA_OFFSET>
TensorAccessor(const TensorAccessorArgs<CTA_OFFSET, CRTA_OFFSET>&, std::size_t)
    -> TensorAccessor<TensorAccessorArgs<CTA_OFFSET, CRTA_OFFSET>>;
template <std::size_t CTA_OFFSET, std::size_t CRTA_OFFSET>
TensorAccessor(const TensorAccessorArgs<CTA_OFFSET, CRTA_OFFSET>&, std::size_t, uint32_t)
    -> TensorAccessor<TensorAccessorArgs<CTA_OFFSET, CRTA_OFFSET>>;
