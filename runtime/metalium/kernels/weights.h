// The reader's stream of weights: pages of tensors in DRAM, in the order in which they lie there.
//
//     DRAM banks ==> cb_weights, as far ahead of the compute kernel as the buffer allows
#pragma once

#include "l1_memory.h"

// `batch` pages are on their way at a time; `pages` of the buffer is a multiple of it or not, as it likes.
class WeightStream {
public:
    WeightStream(uint32_t cb, uint32_t pages, uint32_t page_bytes, uint32_t batch) :
        cb(cb), pages(pages), page_bytes(page_bytes), batch(batch), front(get_write_ptr(cb)) {}

    // Pages first ... of a tensor.
    template <class Tensor>
    void read(const Tensor& tensor, uint32_t first, uint32_t count) {
        while (count > 0) {
            const uint32_t run = smaller(count, batch);
            cb_reserve_back(cb, run);
            for (uint32_t page = 0; page < run; ++page) {
                noc_async_read(tensor.get_noc_addr(first + page), front + slot * page_bytes, page_bytes);
                slot = slot + 1 < pages ? slot + 1 : 0;
            }
            noc_async_read_barrier();
            for (uint32_t page = 0; page < run; ++page) {
                cb_push_back(cb, 1);  // one by one: the buffer may begin anew in between
            }
            first += run;
            count -= run;
        }
    }

private:
    const uint32_t cb, pages, page_bytes, batch, front;
    uint32_t slot = 0;
};

// Which matrix of a bank comes next: the writer knows once the picks are made.
FORCE_INLINE void send_pick(uint32_t cb_picks, uint32_t instance) {
    cb_reserve_back(cb_picks, 1);
    words_at(get_write_ptr(cb_picks))[0] = instance;
    cb_push_back(cb_picks, 1);
}

FORCE_INLINE uint32_t next_pick(uint32_t cb_picks) {
    cb_wait_front(cb_picks, 1);
    const uint32_t instance = words_at(get_read_ptr(cb_picks))[0];
    cb_pop_front(cb_picks, 1);
    return instance;
}
