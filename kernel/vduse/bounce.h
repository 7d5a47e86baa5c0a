/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bounce memory: the pages that stand between a driver's buffers and the
 * daemon, and the streaming mappings made of them.
 */
#ifndef _VDUSE_BOUNCE_H
#define _VDUSE_BOUNCE_H

#include <linux/bits.h>
#include <linux/dma-direction.h>
#include <linux/iova.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct page;

/* A slot is 4 KiB whatever the page size: most buffers are smaller. */
#define VDUSE_SLOT_SHIFT	12
#define VDUSE_SLOT_SIZE		BIT(VDUSE_SLOT_SHIFT)

/**
 * struct vduse_bounce_slot - what one slot of bounce memory stands for
 * @orig: physical address of the driver's memory, or VDUSE_SLOT_FREE
 * @len: bytes of it that belong to the mapping
 * @dir: enum dma_data_direction of the mapping
 * @first: the slot begins a mapping
 */
struct vduse_bounce_slot {
	phys_addr_t orig;
	u16 len;
	u8 dir;
	bool first;
};

#define VDUSE_SLOT_FREE		(~(phys_addr_t)0)

/**
 * struct vduse_bounce - the bounce memory of one domain
 * @size: bytes, a multiple of PAGE_SIZE
 * @nr_pages: @size in pages
 * @iovad: allocator of slots
 * @slots: by slot number; owned by the mapping that the slot is part of
 * @kernel: kernel pages, by page number; NULL until first needed
 * @active: pages that mappings use now: the kernel's or registered ones
 * @registered: @active is registered memory, so it has no gaps to fill
 * @moving: contents are being moved, users of @active need @move_lock
 * @move_lock: see bounce.c
 */
struct vduse_bounce {
	size_t size;
	unsigned long nr_pages;
	struct iova_domain iovad;
	struct vduse_bounce_slot *slots;
	struct page **kernel;
	struct page **active;
	bool registered;
	bool moving;
	spinlock_t move_lock; /* while moving */
};

/**
 * vduse_bounce_init - set up bounce memory, without pages yet
 * @b: zeroed
 * @size: bytes, a multiple of PAGE_SIZE
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.
 */
int vduse_bounce_init(struct vduse_bounce *b, size_t size);

/**
 * vduse_bounce_destroy - free bounce memory
 * @b: bounce memory that nothing is mapped in and no memory registered with
 *
 * Context: may sleep.
 */
void vduse_bounce_destroy(struct vduse_bounce *b);

/**
 * vduse_bounce_map - map a buffer of the driver
 * @b: the bounce memory
 * @orig: physical address of the buffer; it must have a struct page
 * @size: bytes, not 0
 * @dir: direction
 * @copy: give the device the contents now, as far as @dir calls for it
 * @ret_iova: address of the mapping
 *
 * Context: any; does not sleep.
 * Return: 0, or -ENOMEM when there is no room or no page.
 */
int vduse_bounce_map(struct vduse_bounce *b, phys_addr_t orig, size_t size,
		     enum dma_data_direction dir, bool copy,
		     dma_addr_t *ret_iova);

/**
 * vduse_bounce_unmap - end a mapping
 * @b: the bounce memory
 * @iova: address from vduse_bounce_map()
 * @size: the same size
 * @copy: give the driver what the device wrote, if it was mapped for that
 *
 * Context: any; does not sleep.
 */
void vduse_bounce_unmap(struct vduse_bounce *b, dma_addr_t iova, size_t size,
			bool copy);

/**
 * vduse_bounce_sync - copy a part of a mapping and keep it
 * @b: the bounce memory
 * @iova: address inside a mapping
 * @size: bytes; the part that is inside the mapping is copied
 * @to_device: from the driver's buffer to the device, else back
 *
 * Copies only in directions that the buffer was mapped for.
 *
 * Context: any; does not sleep.
 */
void vduse_bounce_sync(struct vduse_bounce *b, dma_addr_t iova, size_t size,
		       bool to_device);

/**
 * vduse_bounce_read - read the driver's own side of a mapping
 * @b: the bounce memory
 * @iova: any address
 * @buf: where to copy to
 * @len: bytes
 *
 * Context: any; does not sleep.
 * Return: 0, or -EFAULT when the range is not inside one mapping.
 */
int vduse_bounce_read(struct vduse_bounce *b, u64 iova, void *buf, size_t len);

/**
 * vduse_bounce_write - write the device's side of a mapping
 * @b: the bounce memory
 * @iova: any address
 * @buf: where to copy from
 * @len: bytes
 *
 * Context: any; does not sleep.
 * Return: 0, or -EFAULT when the range is not inside one mapping that the
 * device may write.
 */
int vduse_bounce_write(struct vduse_bounce *b, u64 iova, const void *buf,
		       size_t len);

/**
 * vduse_bounce_get_page - find the kernel page behind a page of the region
 * @b: the bounce memory
 * @index: page number, below nr_pages
 *
 * Allocates the page if it does not exist yet, so a daemon that is sent to an
 * address nobody mapped reads zeros.
 *
 * Context: may sleep.
 * Return: the page with a reference for the caller; NULL when registered
 * memory is in use or there is no memory.
 */
struct page *vduse_bounce_get_page(struct vduse_bounce *b, unsigned long index);

/**
 * vduse_bounce_register - move over to other pages
 * @b: the bounce memory, using kernel pages
 * @pages: nr_pages pages; they must stay until vduse_bounce_unregister()
 *
 * Context: may sleep; the caller serialises register and unregister.
 */
void vduse_bounce_register(struct vduse_bounce *b, struct page **pages);

/**
 * vduse_bounce_unregister - move back to kernel pages
 * @b: the bounce memory, using registered pages
 *
 * After the return the registered pages are no longer used.
 *
 * Context: may sleep; the caller serialises register and unregister.
 */
void vduse_bounce_unregister(struct vduse_bounce *b);

#endif /* _VDUSE_BOUNCE_H */
