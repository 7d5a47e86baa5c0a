/* SPDX-License-Identifier: MIT */
/*
 * vduse_memory.h: memory of the driver, as VDUSE shows it to this process.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_MEMORY_H
#define VDUSE_BLK_TRANSPORT_VDUSE_MEMORY_H

#include <stdint.h>

#include "virtio/iotlb.h"

/**
 * vduse_memory_map() - map the region around an I/O virtual address
 * @dev_fd:	/dev/vduse/NAME
 * @iova:	any address of the region
 * @ret_region:	written only on success; undone with vduse_memory_unmap()
 *
 * Needs sigbus_guard_install(). Any thread; sleeps.
 *
 * Return: 0; -EFAULT when nothing is mapped there; or -errno.
 */
int vduse_memory_map(int dev_fd, uint64_t iova, struct iotlb_region *ret_region);

/**
 * vduse_memory_unmap() - undo vduse_memory_map()
 * @region: from vduse_memory_map()
 */
void vduse_memory_unmap(const struct iotlb_region *region);

#endif
