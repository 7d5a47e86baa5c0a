/* SPDX-License-Identifier: MIT */
/*
 * Memory that a vhost-user frontend shares: its table of regions.
 *
 * A table never changes once it is made; another set of regions is another
 * table, which shares the mappings that stay. Tables and mappings are counted:
 * the main thread makes tables, each queue's thread holds the one it works with
 * and one reference for each region in its address space. What is unmapped is
 * therefore what nobody can point to any more.
 */
#ifndef VDUSE_BLK_TRANSPORT_VHOST_USER_MEM_H
#define VDUSE_BLK_TRANSPORT_VHOST_USER_MEM_H

#include <stdint.h>

#include "base/error.h"
#include "transport/vhost_user_proto.h"
#include "virtio/iotlb.h"

/* Regions of one table: what GET_MAX_MEM_SLOTS answers. */
#define VHOST_USER_MEM_SLOTS 256u

struct vhost_user_mem;

/**
 * vhost_user_mem_create() - map a set of regions
 * @regions:	from the frontend
 * @fds:	one descriptor a region; stay the caller's
 * @n:		how many, perhaps none
 * @ret_mem:	a table with one reference; written only on success
 * @e:		error text
 *
 * Return: 0; -EINVAL for a region that makes no sense or is longer than its
 * file; or another -errno.
 */
int vhost_user_mem_create(const struct vhost_user_region *regions, const int *fds, unsigned int n,
			  struct vhost_user_mem **ret_mem, struct error *e);

/**
 * vhost_user_mem_add() - the same table with one more region
 * @mem:	a table; NULL: an empty one
 * @region:	from the frontend
 * @fd:		stays the caller's
 * @ret_mem:	a table with one reference; written only on success
 * @e:		error text
 *
 * Return: as vhost_user_mem_create(), or -ENOSPC.
 */
int vhost_user_mem_add(const struct vhost_user_mem *mem, const struct vhost_user_region *region,
		       int fd, struct vhost_user_mem **ret_mem, struct error *e);

/**
 * vhost_user_mem_remove() - the same table with one region less
 * @mem:	a table or NULL
 * @region:	what to remove: guest address, user address and size have to match
 * @ret_mem:	a table with one reference; written only on success
 * @e:		error text
 *
 * Return: 0, -EINVAL when there is no such region, or -ENOMEM.
 */
int vhost_user_mem_remove(const struct vhost_user_mem *mem, const struct vhost_user_region *region,
			  struct vhost_user_mem **ret_mem, struct error *e);

/**
 * vhost_user_mem_get() - take a reference
 * @mem: a table or NULL
 *
 * Any thread that has one. Return: @mem.
 */
struct vhost_user_mem *vhost_user_mem_get(struct vhost_user_mem *mem);

/**
 * vhost_user_mem_put() - give a reference back
 * @mem: a table or NULL
 *
 * Any thread; the last one unmaps what no other table has.
 */
void vhost_user_mem_put(struct vhost_user_mem *mem);

/**
 * vhost_user_mem_guest_addr() - from the frontend's addresses to the guest's
 * @mem:	a table or NULL
 * @user_addr:	address in the frontend
 * @ret_addr:	written only on success
 *
 * Return: 0, or -EFAULT when no region has it.
 */
int vhost_user_mem_guest_addr(const struct vhost_user_mem *mem, uint64_t user_addr,
			      uint64_t *ret_addr);

/**
 * vhost_user_mem_fault() - find the region of an address, for an iotlb
 * @mem:	a table or NULL
 * @guest_addr:	any address
 * @ret:	written only on success; its cookie holds a reference that
 *		vhost_user_mem_release() gives back
 *
 * Return: 0, or -EFAULT when no region has it.
 */
int vhost_user_mem_fault(const struct vhost_user_mem *mem, uint64_t guest_addr,
			 struct iotlb_region *ret);

/**
 * vhost_user_mem_release() - the iotlb no longer uses a region
 * @region: from vhost_user_mem_fault()
 */
void vhost_user_mem_release(const struct iotlb_region *region);

#endif
