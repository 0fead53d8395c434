// Waits for one tile and reads the second.
#include "tiles.h"

void kernel_main() {
    compute_kernel_hw_startup(0, 16);
    cb_wait_front(0, 1);
    tile_regs_acquire();
    copy_one(0, 0);
    copy_one(0, 1);
    tile_regs_commit();
}
