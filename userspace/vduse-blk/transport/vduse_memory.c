// SPDX-License-Identifier: MIT
/*
 * Memory of the driver. The kernel cuts the address space into regions and has a
 * file for each; memory behind a mapping can be taken away, hence the guard.
 */
#include <errno.h>
#include <sys/mman.h>

#include "base/util.h"
#include "transport/sigbus.h"
#include "transport/vduse_dev.h"
#include "transport/vduse_memory.h"

static uint32_t iotlb_perm(uint8_t perm)
{
	return (perm & VDUSE_ACCESS_RO ? IOTLB_READ : 0) |
	       (perm & VDUSE_ACCESS_WO ? IOTLB_WRITE : 0);
}

int vduse_memory_map(int dev_fd, uint64_t iova, struct iotlb_region *ret_region)
{
	struct vduse_iotlb_entry entry;
	auto_close int fd = -1;
	uint32_t allowed;
	uint64_t size;
	void *vaddr;
	int err;

	fd = vduse_dev_iotlb_get(dev_fd, iova, &entry);
	if (fd < 0)
		return fd == -EINVAL ? -EFAULT : fd;

	size = entry.last - entry.start + 1;
	allowed = iotlb_perm(entry.perm);
	if (entry.start > iova || entry.last < iova || !size || size > SIZE_MAX || !allowed)
		return -EFAULT;

	vaddr = mmap(NULL, size,
		     (allowed & IOTLB_READ ? PROT_READ : 0) |
		     (allowed & IOTLB_WRITE ? PROT_WRITE : 0),
		     MAP_SHARED, fd, (off_t)entry.offset);
	if (vaddr == MAP_FAILED)
		return -errno;

	err = sigbus_guard_add(vaddr, size);
	if (err) {
		munmap(vaddr, size);
		return err;
	}
	*ret_region = (struct iotlb_region) {
		.iova = entry.start,
		.size = size,
		.perm = allowed,
		.vaddr = vaddr,
	};
	return 0;
}

void vduse_memory_unmap(const struct iotlb_region *region)
{
	sigbus_guard_del(region->vaddr, region->size);
	munmap(region->vaddr, region->size);
}
