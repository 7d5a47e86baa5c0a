/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The I/O virtual address space of one vDPA device.
 *
 * A domain maps IOVAs, the addresses found in rings, to memory. Two kinds of
 * driver use it: virtio_vdpa through the DMA API (coherent memory for rings,
 * bounce memory for everything else), vhost_vdpa by handing over an IOTLB of
 * file-backed guest memory. The daemon learns the regions with IOTLB_GET_FD
 * and maps them into its own address space.
 */
#ifndef _VDUSE_DOMAIN_H
#define _VDUSE_DOMAIN_H

#include <linux/dma-map-ops.h>
#include <linux/types.h>

struct device;
struct file;
struct vduse_domain;
struct vduse_iotlb_entry;
struct vduse_iova_info;
struct vhost_iotlb;

/**
 * vduse_domain_init - take what all domains share
 *
 * Context: module initialisation, may sleep.
 * Return: 0 or a negative errno.
 */
int vduse_domain_init(void);

/**
 * vduse_domain_exit - release what vduse_domain_init() took
 *
 * Waits for the RCU callbacks of this part, so no domain may exist any more.
 *
 * Context: module exit, sleeps.
 */
void vduse_domain_exit(void);

/**
 * vduse_domain_create - create an empty address space
 * @iova_limit: highest IOVA that may be used; larger than @bounce_size
 * @bounce_size: bytes of bounce memory, at IOVA 0 and up; rounded up to pages
 * @ret_domain: the domain, with one reference held by the caller
 *
 * Bounce memory is populated on demand, so an unused domain is cheap.
 *
 * Context: may sleep.
 * Return: 0, -EINVAL for sizes that do not fit, -ENOMEM, or what creating
 * the file that stands for the domain returned.
 */
int vduse_domain_create(u64 iova_limit, size_t bounce_size,
			struct vduse_domain **ret_domain);

/**
 * vduse_domain_put - drop the reference of vduse_domain_create()
 * @d: the domain, or NULL
 *
 * The file that daemons map holds references of its own, so the memory may
 * live on until the last daemon lets go of it.
 *
 * Context: any but hard interrupt; the last put may be deferred.
 */
void vduse_domain_put(struct vduse_domain *d);

/**
 * vduse_domain_bounce_size - bytes of bounce memory
 * @d: the domain
 *
 * Context: any.
 * Return: the size given at creation, rounded up to pages.
 */
size_t vduse_domain_bounce_size(const struct vduse_domain *d);

/**
 * vduse_dma_dev_domain - the domain behind a device of the DMA API
 * @dev: the device that vduse_dma_ops was installed on
 *
 * Supplied by the owner of the device, called by the DMA operations.
 *
 * Context: any; must not sleep.
 * Return: the domain; never NULL as long as a driver may use the DMA API.
 */
struct vduse_domain *vduse_dma_dev_domain(struct device *dev);

/* DMA operations for the device that virtio_vdpa maps its memory with. */
extern const struct dma_map_ops vduse_dma_ops;

/**
 * vduse_domain_set_map - replace all regions by those of a vhost driver
 * @d: the domain
 * @iotlb: file-backed regions, each with a struct vdpa_map_file as opaque
 *
 * Context: may sleep; the caller serialises calls.
 * Return: 0, or -ENOMEM, in which case the regions stay as they were.
 */
int vduse_domain_set_map(struct vduse_domain *d, struct vhost_iotlb *iotlb);

/**
 * vduse_domain_reset_bounce_map - withdraw the bounce region after a reset
 * @d: the domain
 *
 * The region disappears from IOTLB_GET_FD and IOTLB_GET_INFO until a driver
 * maps something again. Mapped buffers stay valid.
 *
 * Context: any but hard interrupt.
 */
void vduse_domain_reset_bounce_map(struct vduse_domain *d);

/**
 * vduse_domain_get_fd - find the first region that overlaps a range
 * @d: the domain
 * @start: first IOVA of the range
 * @last: last IOVA of the range, not below @start
 * @entry: filled with the bounds, permission and file offset of the region
 * @ret_file: its file, with a reference for the caller
 *
 * Context: any but hard interrupt.
 * Return: 0; -EINVAL when nothing overlaps the range; -ENODEV after
 * vduse_domain_revoke().
 */
int vduse_domain_get_fd(struct vduse_domain *d, u64 start, u64 last,
			struct vduse_iotlb_entry *entry,
			struct file **ret_file);

/**
 * vduse_domain_get_info - capabilities of the first region overlapping a range
 * @d: the domain
 * @info: the range in start and last; bounds and capability are written back
 *
 * Context: any but hard interrupt.
 * Return: 0, or -EINVAL when nothing overlaps the range or it is reversed.
 */
int vduse_domain_get_info(struct vduse_domain *d, struct vduse_iova_info *info);

/**
 * vduse_domain_reg_umem - use the caller's memory as bounce memory
 * @d: the domain
 * @iova: start of the region, must be 0
 * @uaddr: page-aligned address in the memory of the calling process
 * @size: bytes, must be the whole bounce size
 *
 * Pins the memory, counts it against RLIMIT_MEMLOCK, and moves the contents
 * of bounce slots in use over to it.
 *
 * Context: may sleep; ioctl of the process that owns the memory.
 * Return: 0; -EINVAL for a range that is not the bounce region, or while the
 * region is not there; -EEXIST when memory is registered already; -ENOMEM for
 * the memory lock limit; -EFAULT or -ENOMEM for unmapped memory.
 */
int vduse_domain_reg_umem(struct vduse_domain *d, u64 iova, u64 uaddr,
			  u64 size);

/**
 * vduse_domain_dereg_umem - go back to bounce memory of the kernel
 * @d: the domain
 * @iova: start of the registered region
 * @size: bytes of the registered region
 *
 * Context: may sleep; any process.
 * Return: 0, -ENOENT when nothing is registered, -EINVAL for another range.
 */
int vduse_domain_dereg_umem(struct vduse_domain *d, u64 iova, u64 size);

/**
 * vduse_domain_release_umem - dereg_umem for a daemon that closes its device
 * @d: the domain
 *
 * Context: may sleep; any process. Harmless when nothing is registered.
 */
void vduse_domain_release_umem(struct vduse_domain *d);

/**
 * vduse_domain_revoke - cut off every daemon for good
 * @d: the domain
 *
 * Removes the coherent and bounce memory from all address spaces it is mapped
 * into and refuses further faults (SIGBUS) and GET_FD. Called before the
 * kernel completes requests itself, so that a daemon which only slept cannot
 * write to the same rings.
 *
 * Context: may sleep.
 */
void vduse_domain_revoke(struct vduse_domain *d);

/**
 * vduse_domain_vaddr - kernel address of coherent memory
 * @d: the domain
 * @iova: start of the range
 * @len: bytes; the range must lie within one allocation
 *
 * Valid until the driver frees the memory.
 *
 * Context: any but hard interrupt.
 * Return: the address, or NULL when the range is not coherent memory.
 */
void *vduse_domain_vaddr(struct vduse_domain *d, u64 iova, u64 len);

/**
 * vduse_domain_read - read what the driver has mapped at an IOVA
 * @d: the domain
 * @iova: start of the range
 * @buf: where to copy to
 * @len: bytes
 *
 * For a mapped buffer this reads the driver's own memory, not the bounce
 * slot, so a daemon cannot have changed it.
 *
 * Context: any but hard interrupt; does not sleep.
 * Return: 0, or -EFAULT when the range is neither inside one mapped buffer
 * nor inside one coherent allocation.
 */
int vduse_domain_read(struct vduse_domain *d, u64 iova, void *buf, size_t len);

/**
 * vduse_domain_write - write to the device's side of an IOVA
 * @d: the domain
 * @iova: start of the range
 * @buf: where to copy from
 * @len: bytes
 *
 * For a mapped buffer this writes the bounce slot; the driver gets the data
 * when it unmaps the buffer, if it mapped it for the device to write.
 *
 * Context: any but hard interrupt; does not sleep.
 * Return: 0, or -EFAULT as for vduse_domain_read().
 */
int vduse_domain_write(struct vduse_domain *d, u64 iova, const void *buf,
		       size_t len);

#endif /* _VDUSE_DOMAIN_H */
