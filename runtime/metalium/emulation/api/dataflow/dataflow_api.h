// Kernels that move data: circular buffers, the network on chip, semaphores.
#pragma once
#include <cstdint>

#include "api/runtime_args.h"
#include "api/tensor/tensor_accessor.h"

constexpr uint8_t noc_index = NOC_INDEX;
constexpr uint32_t NOC_MAX_BURST_SIZE = 8192;
constexpr uint8_t NOC_UNICAST_WRITE_VC = 1, NOC_MULTICAST_WRITE_VC = 4;
enum class ProgrammableCoreType { TENSIX = 0, ACTIVE_ETH = 1, IDLE_ETH = 2 };

namespace emulation {
struct NocCoordinate {  // indexed by the NoC: virtual coordinates are the same on both
    int which;
    uint8_t operator[](int) const { return uint8_t(coordinate(which)); }
};
}  // namespace emulation
constexpr emulation::NocCoordinate my_x{2}, my_y{3};

// --- circular buffers ----------------------------------------------------------------------------------------------
FORCE_INLINE void cb_push_back(const int32_t operand, const int32_t num_pages) {
    emulation::cb_push(operand, num_pages);
}
FORCE_INLINE void cb_pop_front(int32_t operand, int32_t num_pages) { emulation::cb_pop(operand, num_pages); }
FORCE_INLINE void cb_reserve_back(int32_t operand, int32_t num_pages) { emulation::cb_reserve(operand, num_pages); }
FORCE_INLINE void cb_wait_front(int32_t operand, int32_t num_pages) { emulation::cb_wait(operand, num_pages); }
FORCE_INLINE bool cb_pages_reservable_at_back(int32_t operand, int32_t num_pages) {
    return emulation::cb_can_reserve(operand, num_pages);
}
FORCE_INLINE bool cb_pages_available_at_front(int32_t operand, int32_t num_pages) {
    return emulation::cb_can_wait(operand, num_pages);
}
FORCE_INLINE uint32_t get_write_ptr(uint32_t operand) { return emulation::cb_write_address(operand); }
FORCE_INLINE uint32_t get_read_ptr(uint32_t operand) { return emulation::cb_read_address(operand); }

// --- addresses -----------------------------------------------------------------------------------------------------
FORCE_INLINE uint64_t get_noc_addr(uint32_t noc_x, uint32_t noc_y, uint32_t addr, uint8_t = noc_index) {
    return uint64_t(noc_y) << (emulation::ADDRESS_BITS + emulation::NODE_BITS) |
           uint64_t(noc_x) << emulation::ADDRESS_BITS | addr;
}
FORCE_INLINE uint64_t get_noc_addr(uint32_t addr, uint8_t noc = noc_index) {
    return get_noc_addr(my_x[noc], my_y[noc], addr, noc);
}
template <typename AddrGen>
FORCE_INLINE uint64_t get_noc_addr(const uint32_t id, const AddrGen& addrgen, uint32_t offset = 0,
                                   uint8_t noc = noc_index) {
    return addrgen.get_noc_addr(id, offset, noc);
}
FORCE_INLINE uint64_t get_noc_multicast_addr(uint32_t noc_x_start, uint32_t noc_y_start, uint32_t noc_x_end,
                                             uint32_t noc_y_end, uint32_t addr, uint8_t = noc_index) {
    return uint64_t(noc_x_start) << (emulation::ADDRESS_BITS + 2 * emulation::NODE_BITS) |
           uint64_t(noc_y_start) << (emulation::ADDRESS_BITS + 3 * emulation::NODE_BITS) |
           get_noc_addr(noc_x_end, noc_y_end, addr);
}
template <bool DRAM>
FORCE_INLINE uint64_t get_noc_addr_from_bank_id(uint32_t bank_id, uint32_t bank_address_offset, uint8_t = noc_index) {
    return emulation::bank_address(bank_id, bank_address_offset, DRAM);
}

// --- reads and writes ----------------------------------------------------------------------------------------------
template <uint32_t max_page_size = NOC_MAX_BURST_SIZE + 1, bool enable_noc_tracing = true>
inline void noc_async_read(uint64_t src_noc_addr, uint32_t dst_local_l1_addr, uint32_t size, uint8_t = noc_index,
                           uint32_t = NOC_UNICAST_WRITE_VC) {
    emulation::noc_read(src_noc_addr, dst_local_l1_addr, size);
}
template <bool enable_noc_tracing = true>
FORCE_INLINE void noc_async_read_one_packet(uint64_t src_noc_addr, uint32_t dst_local_l1_addr, uint32_t size,
                                            uint8_t = noc_index, uint32_t = NOC_UNICAST_WRITE_VC) {
    emulation::noc_read(src_noc_addr, dst_local_l1_addr, size);
}
template <uint32_t max_page_size = NOC_MAX_BURST_SIZE + 1, bool enable_noc_tracing = true, bool posted = false>
inline void noc_async_write(uint32_t src_local_l1_addr, uint64_t dst_noc_addr, uint32_t size, uint8_t = noc_index,
                            uint32_t = NOC_UNICAST_WRITE_VC) {
    emulation::noc_write(src_local_l1_addr, dst_noc_addr, size);
}
template <bool enable_noc_tracing = true, bool posted = false>
FORCE_INLINE void noc_async_write_one_packet(uint32_t src_local_l1_addr, uint64_t dst_noc_addr, uint32_t size,
                                             uint8_t = noc_index, uint32_t = NOC_UNICAST_WRITE_VC) {
    emulation::noc_write(src_local_l1_addr, dst_noc_addr, size);
}
template <uint32_t max_page_size = NOC_MAX_BURST_SIZE + 1>
inline void noc_async_write_multicast(uint32_t src_local_l1_addr, uint64_t dst_noc_addr_multicast, uint32_t size,
                                      uint32_t num_dests, bool = false, uint8_t noc = noc_index,
                                      uint8_t = NOC_MULTICAST_WRITE_VC) {
    emulation::noc_multicast(src_local_l1_addr, dst_noc_addr_multicast, size, num_dests, false, noc);
}
inline void noc_async_write_multicast_loopback_src(uint32_t src_local_l1_addr, uint64_t dst_noc_addr_multicast,
                                                   uint32_t size, uint32_t num_dests, bool = false,
                                                   uint8_t noc = noc_index) {
    emulation::noc_multicast(src_local_l1_addr, dst_noc_addr_multicast, size, num_dests, true, noc);
}

template <typename AddrGen, bool enable_noc_tracing = true>
FORCE_INLINE void noc_async_read_page(const uint32_t id, const AddrGen& addrgen, uint32_t dst_local_l1_addr,
                                      uint32_t offset = 0, uint8_t noc = noc_index) {
    emulation::noc_read(addrgen.get_noc_addr(id, offset, noc), dst_local_l1_addr, addrgen.get_aligned_page_size());
}
template <typename DSpec>
FORCE_INLINE void noc_async_read_tile(const uint32_t id, const TensorAccessor<DSpec>& addrgen,
                                      uint32_t dst_local_l1_addr, uint32_t offset = 0, uint8_t noc = noc_index) {
    noc_async_read_page(id, addrgen, dst_local_l1_addr, offset, noc);
}
template <typename AddrGen, bool enable_noc_tracing = true, bool posted = false>
FORCE_INLINE void noc_async_write_page(const uint32_t id, const AddrGen& addrgen, uint32_t src_local_l1_addr,
                                       uint32_t size = 0, uint32_t offset = 0, uint8_t noc = noc_index) {
    emulation::noc_write(src_local_l1_addr, addrgen.get_noc_addr(id, offset, noc),
                         size ? size : addrgen.get_aligned_page_size());
}
template <typename DSpec>
FORCE_INLINE void noc_async_write_tile(const uint32_t id, const TensorAccessor<DSpec>& addrgen,
                                       uint32_t src_local_l1_addr, uint8_t noc = noc_index) {
    noc_async_write_page(id, addrgen, src_local_l1_addr, 0, 0, noc);
}

inline void noc_async_read_barrier(uint8_t = noc_index) { emulation::noc_reads_done(); }
FORCE_INLINE void noc_async_write_barrier(uint8_t = noc_index) { emulation::noc_writes_done(); }
FORCE_INLINE void noc_async_writes_flushed(uint8_t = noc_index) { emulation::noc_writes_done(); }
FORCE_INLINE void noc_async_posted_writes_flushed(uint8_t = noc_index) { emulation::noc_writes_done(); }
FORCE_INLINE void noc_async_atomic_barrier(uint8_t = noc_index) { emulation::noc_increments_done(); }
FORCE_INLINE void noc_async_full_barrier(uint8_t = noc_index) {
    emulation::noc_reads_done();
    emulation::noc_writes_done();
    emulation::noc_increments_done();
}

// --- semaphores ----------------------------------------------------------------------------------------------------
template <ProgrammableCoreType type = ProgrammableCoreType::TENSIX>
FORCE_INLINE uintptr_t get_semaphore(uint32_t semaphore_id) {
    return emulation::semaphore_address(semaphore_id);
}
FORCE_INLINE void noc_semaphore_wait(volatile tt_l1_ptr uint32_t* sem_addr, uint32_t val) {
    emulation::semaphore_wait(sem_addr, val, false);
}
FORCE_INLINE void noc_semaphore_wait_min(volatile tt_l1_ptr uint32_t* sem_addr, uint32_t val) {
    emulation::semaphore_wait(sem_addr, val, true);
}
FORCE_INLINE void noc_semaphore_set(volatile tt_l1_ptr uint32_t* sem_addr, uint32_t val) {
    emulation::semaphore_set(sem_addr, val);
}
template <bool posted = false>
FORCE_INLINE void noc_semaphore_inc(uint64_t addr, uint32_t incr, uint8_t = noc_index, uint8_t = NOC_UNICAST_WRITE_VC) {
    emulation::semaphore_increment(addr, incr);
}
inline void noc_semaphore_set_remote(uint32_t src_local_l1_addr, uint64_t dst_noc_addr, uint8_t = noc_index) {
    emulation::noc_write_word(dst_noc_addr, *static_cast<uint32_t*>(emulation::l1_pointer(src_local_l1_addr, 4)));
}
inline void noc_semaphore_set_multicast(uint32_t src_local_l1_addr, uint64_t dst_noc_addr_multicast, uint32_t num_dests,
                                        bool = false, uint8_t noc = noc_index, uint8_t = NOC_MULTICAST_WRITE_VC) {
    emulation::noc_multicast_word(static_cast<uint32_t*>(emulation::l1_pointer(src_local_l1_addr, 4)),
                                  dst_noc_addr_multicast, num_dests, false, noc);
}
inline void noc_semaphore_set_multicast_loopback_src(uint32_t src_local_l1_addr, uint64_t dst_noc_addr_multicast,
                                                     uint32_t num_dests, bool = false, uint8_t noc = noc_index) {
    emulation::noc_multicast_word(static_cast<uint32_t*>(emulation::l1_pointer(src_local_l1_addr, 4)),
                                  dst_noc_addr_multicast, num_dests, true, noc);
}
FORCE_INLINE void noc_inline_dw_write(uint64_t addr, uint32_t val, uint8_t = 0xF, uint8_t = noc_index,
                                      uint8_t = NOC_UNICAST_WRITE_VC) {
    emulation::noc_write_word(addr, val);
}
