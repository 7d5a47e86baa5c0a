// SPDX-License-Identifier: MIT
/*
 * Memory that a vhost-user frontend shares.
 *
 * A region is mapped once for the whole process, from the start of the (huge)
 * page that its offset is in, since nothing else can be mapped. The file may
 * shrink at any time or run out of huge pages: accesses are guarded against
 * SIGBUS (sigbus.h). Core dumps leave the guest's memory out.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/util.h"
#include "transport/sigbus.h"
#include "transport/vhost_user_mem.h"

struct mapping {
	atomic_uint refs;
	struct vhost_user_region region;
	void *base;
	size_t length;
	uint8_t *vaddr; /* of the region's first byte */
};

struct vhost_user_mem {
	atomic_uint refs;
	unsigned int n;
	struct mapping *mappings[];
};

static struct mapping *mapping_get(struct mapping *m)
{
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
	return m;
}

static void mapping_put(struct mapping *m)
{
	if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	sigbus_guard_del(m->base, m->length);
	munmap(m->base, m->length);
	free(m);
}

/* Granularity of mappings of a file: its huge pages if it has them. */
static int mapping_unit(int fd, uint64_t *ret_unit)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return -errno;
	*ret_unit = (uint64_t)sysconf(_SC_PAGESIZE);
	if (fs.f_type == HUGETLBFS_MAGIC && is_power_of_2((uint64_t)fs.f_bsize))
		*ret_unit = (uint64_t)fs.f_bsize;
	return 0;
}

static int check_file(const struct vhost_user_region *r, int fd, struct error *e)
{
	struct stat st;

	if (fstat(fd, &st))
		return err_set_errno(e, errno, "look at the file of a memory region");
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < r->mmap_offset + r->size)
		return err_set(e, EINVAL,
			       "memory region of %#" PRIx64 " bytes at %#" PRIx64 " of a file of %#" PRIx64,
			       r->size, r->mmap_offset, (uint64_t)st.st_size);
	return 0;
}

static int map_file(struct mapping *m, int fd, uint64_t unit, struct error *e)
{
	const struct vhost_user_region *r = &m->region;
	const uint64_t skip = r->mmap_offset & (unit - 1);
	int err;

	m->length = round_up(r->size + skip, unit);
	m->base = mmap(NULL, m->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		       (off_t)(r->mmap_offset - skip));
	if (m->base == MAP_FAILED)
		return err_set_errno(e, errno, "map a memory region of %#" PRIx64 " bytes",
				     r->size);
	err = sigbus_guard_add_huge(m->base, m->length, unit);
	if (err) {
		munmap(m->base, m->length);
		return err_set_errno(e, -err, "guard a memory region");
	}
	madvise(m->base, m->length, MADV_DONTDUMP);
	m->vaddr = (uint8_t *)m->base + skip;
	return 0;
}

static int mapping_create(const struct vhost_user_region *region, int fd,
			  struct mapping **ret_mapping, struct error *e)
{
	auto_free struct mapping *m = calloc(1, sizeof(*m));
	uint64_t unit = 0;
	int err;

	if (!m)
		return err_set(e, ENOMEM, "out of memory");
	atomic_init(&m->refs, 1);
	m->region = *region;
	err = check_file(region, fd, e);
	if (err)
		return err;
	err = mapping_unit(fd, &unit);
	if (err)
		return err_set_errno(e, -err, "look at the file of a memory region");
	err = map_file(m, fd, unit, e);
	if (err)
		return err;
	*ret_mapping = take_ptr(m);
	return 0;
}

static struct vhost_user_mem *mem_alloc(unsigned int room)
{
	struct vhost_user_mem *mem = calloc(1, sizeof(*mem) + room * sizeof(mem->mappings[0]));

	if (mem)
		atomic_init(&mem->refs, 1);
	return mem;
}

int vhost_user_mem_create(const struct vhost_user_region *regions, const int *fds, unsigned int n,
			  struct vhost_user_mem **ret_mem, struct error *e)
{
	struct vhost_user_mem *mem;
	int err;

	err = vhost_user_regions_check(regions, n, e);
	if (err)
		return err;
	mem = mem_alloc(n);
	if (!mem)
		return err_set(e, ENOMEM, "out of memory");
	for (; mem->n < n; mem->n++) {
		err = mapping_create(&regions[mem->n], fds[mem->n], &mem->mappings[mem->n], e);
		if (err) {
			vhost_user_mem_put(mem);
			return err;
		}
	}
	*ret_mem = mem;
	return 0;
}

int vhost_user_mem_add(const struct vhost_user_mem *mem, const struct vhost_user_region *region,
		       int fd, struct vhost_user_mem **ret_mem, struct error *e)
{
	auto_free struct vhost_user_region *all = NULL;
	const unsigned int n = mem ? mem->n : 0;
	struct vhost_user_mem *grown;
	unsigned int i;
	int err;

	if (n >= VHOST_USER_MEM_SLOTS)
		return err_set(e, ENOSPC, "more than %u memory regions", VHOST_USER_MEM_SLOTS);
	all = calloc(n + 1, sizeof(*all));
	grown = mem_alloc(n + 1);
	if (!all || !grown) {
		vhost_user_mem_put(grown);
		return err_set(e, ENOMEM, "out of memory");
	}
	for (i = 0; i < n; i++)
		all[i] = mem->mappings[i]->region;
	all[n] = *region;
	err = vhost_user_regions_check(all, n + 1, e);
	if (!err)
		err = mapping_create(region, fd, &grown->mappings[n], e);
	if (err) {
		vhost_user_mem_put(grown);
		return err;
	}
	for (i = 0; i < n; i++)
		grown->mappings[i] = mapping_get(mem->mappings[i]);
	grown->n = n + 1;
	*ret_mem = grown;
	return 0;
}

static bool is_region(const struct mapping *m, const struct vhost_user_region *r)
{
	return m->region.guest_addr == r->guest_addr && m->region.user_addr == r->user_addr &&
	       m->region.size == r->size;
}

int vhost_user_mem_remove(const struct vhost_user_mem *mem, const struct vhost_user_region *region,
			  struct vhost_user_mem **ret_mem, struct error *e)
{
	const unsigned int n = mem ? mem->n : 0;
	struct vhost_user_mem *shrunk = mem_alloc(n);
	unsigned int i;

	if (!shrunk)
		return err_set(e, ENOMEM, "out of memory");
	for (i = 0; i < n; i++) {
		if (!is_region(mem->mappings[i], region))
			shrunk->mappings[shrunk->n++] = mapping_get(mem->mappings[i]);
	}
	if (shrunk->n == n) {
		vhost_user_mem_put(shrunk);
		return err_set(e, EINVAL, "no such memory region: %#" PRIx64 " bytes at %#" PRIx64,
			       region->size, region->guest_addr);
	}
	*ret_mem = shrunk;
	return 0;
}

struct vhost_user_mem *vhost_user_mem_get(struct vhost_user_mem *mem)
{
	if (mem)
		atomic_fetch_add_explicit(&mem->refs, 1, memory_order_relaxed);
	return mem;
}

void vhost_user_mem_put(struct vhost_user_mem *mem)
{
	unsigned int i;

	if (!mem || atomic_fetch_sub_explicit(&mem->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (i = 0; i < mem->n; i++)
		mapping_put(mem->mappings[i]);
	free(mem);
}

int vhost_user_mem_guest_addr(const struct vhost_user_mem *mem, uint64_t user_addr,
			      uint64_t *ret_addr)
{
	unsigned int i;

	for (i = 0; mem && i < mem->n; i++) {
		const struct vhost_user_region *r = &mem->mappings[i]->region;

		if (user_addr - r->user_addr < r->size) {
			*ret_addr = r->guest_addr + (user_addr - r->user_addr);
			return 0;
		}
	}
	return -EFAULT;
}

int vhost_user_mem_fault(const struct vhost_user_mem *mem, uint64_t guest_addr,
			 struct iotlb_region *ret)
{
	unsigned int i;

	for (i = 0; mem && i < mem->n; i++) {
		struct mapping *m = mem->mappings[i];

		if (guest_addr - m->region.guest_addr >= m->region.size)
			continue;
		*ret = (struct iotlb_region) {
			.iova = m->region.guest_addr,
			.size = m->region.size,
			.perm = IOTLB_RW,
			.vaddr = m->vaddr,
			.cookie = mapping_get(m),
		};
		return 0;
	}
	return -EFAULT;
}

void vhost_user_mem_release(const struct iotlb_region *region)
{
	mapping_put(region->cookie);
}
