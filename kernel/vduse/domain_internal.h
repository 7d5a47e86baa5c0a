/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the IOVA domain, for the files that implement it: domain.c,
 * dma_ops.c and umem.c.
 */
#ifndef _VDUSE_DOMAIN_INTERNAL_H
#define _VDUSE_DOMAIN_INTERNAL_H

#include <linux/iova.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/vhost_iotlb.h>

#include "bounce.h"
#include "domain.h"
#include "watch.h"

struct vduse_umem;

/**
 * struct vduse_domain - the address space of one vDPA device
 * @file: what daemons map; its references are those of the domain
 * @iova_limit: highest IOVA
 * @iovad: allocator for coherent memory, in pages above the bounce region
 * @iotlb: regions by IOVA; opaque is a struct vduse_region
 * @iotlb_lock: guards @iotlb and @bounce_listed; taken with interrupts off
 * @bounce_listed: the bounce region is in @iotlb
 * @bounce: the bounce memory
 * @fault_sem: held for reading while a page is put into a daemon's page
 *	tables, for writing to set @revoked
 * @revoked: daemons are cut off
 * @umem_lock: guards @umem; may sleep
 * @umem: memory registered by the daemon, or NULL
 * @watch: trackers of requests in flight
 */
struct vduse_domain {
	struct file *file;
	u64 iova_limit;
	struct iova_domain iovad;
	struct vhost_iotlb *iotlb;
	spinlock_t iotlb_lock; /* regions */
	bool bounce_listed;
	struct vduse_bounce bounce;
	struct rw_semaphore fault_sem;
	bool revoked;
	struct mutex umem_lock; /* registered memory */
	struct vduse_umem *umem;
	struct vduse_watch watch;
};

/**
 * vduse_domain_list_bounce - let daemons find the bounce region
 * @d: the domain
 *
 * Context: any but hard interrupt; does not sleep.
 * Return: 0 or -ENOMEM.
 */
int vduse_domain_list_bounce(struct vduse_domain *d);

/**
 * vduse_domain_alloc_coherent - allocate memory shared with the daemon
 * @d: the domain
 * @size: bytes
 * @gfp: how to allocate
 * @ret_iova: its address for the device
 *
 * Context: as @gfp allows.
 * Return: zeroed, page-aligned memory, or NULL.
 */
void *vduse_domain_alloc_coherent(struct vduse_domain *d, size_t size,
				  gfp_t gfp, dma_addr_t *ret_iova);

/**
 * vduse_domain_free_coherent - free coherent memory
 * @d: the domain
 * @vaddr: the memory
 * @size: the size it was allocated with
 * @iova: its address for the device
 *
 * Context: any but hard interrupt; does not sleep. The pages go back to the
 * system after an RCU grace period, because a tracker may still look at them.
 */
void vduse_domain_free_coherent(struct vduse_domain *d, void *vaddr,
				size_t size, dma_addr_t iova);

#endif /* _VDUSE_DOMAIN_INTERNAL_H */
