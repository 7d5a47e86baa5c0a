// SPDX-License-Identifier: GPL-2.0-only
/*
 * The DMA API of a VDUSE device, as virtio_vdpa uses it.
 *
 * Streaming mappings become bounce slots, coherent allocations become regions
 * of their own. Nothing is locked here. Each mapping first lets the trackers
 * of requests in flight look at their rings, if it is time: what a driver
 * maps is not available yet, and that is what their exactness rests on (see
 * inflight.c and watch.c).
 */
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/mm.h>
#include <uapi/linux/virtio_blk.h>

#include "domain_internal.h"
#include "trace.h"

/*
 * The largest mapping that may be a status: struct virtio_blk's byte, or that
 * byte behind the sector number of a zone append.
 */
#define STATUS_SIZE_MAX		16

/*
 * A status that the device never wrote must not read as success, which is 0
 * and may well be what an earlier request left in the slot.
 */
static void poison_status(struct vduse_domain *d, dma_addr_t iova, size_t size)
{
	const u8 status = VIRTIO_BLK_S_IOERR;

	vduse_bounce_write(&d->bounce, iova + size - 1, &status, 1);
}

static dma_addr_t vduse_dma_map_page(struct device *dev, struct page *page,
				     unsigned long offset, size_t size,
				     enum dma_data_direction dir,
				     unsigned long attrs)
{
	struct vduse_domain *d = vduse_dma_dev_domain(dev);
	bool copy = !(attrs & DMA_ATTR_SKIP_CPU_SYNC);
	bool tracked = vduse_watch_map(&d->watch);
	dma_addr_t iova;

	if (unlikely(vduse_domain_list_bounce(d)) ||
	    unlikely(vduse_bounce_map(&d->bounce, page_to_phys(page) + offset,
				      size, dir, copy, &iova)))
		return DMA_MAPPING_ERROR;

	if (tracked && dir == DMA_FROM_DEVICE && size <= STATUS_SIZE_MAX)
		poison_status(d, iova, size);

	trace_vduse_map(dev_name(dev), iova, size, dir);
	return iova;
}

static void vduse_dma_unmap_page(struct device *dev, dma_addr_t iova,
				 size_t size, enum dma_data_direction dir,
				 unsigned long attrs)
{
	struct vduse_domain *d = vduse_dma_dev_domain(dev);

	trace_vduse_unmap(dev_name(dev), iova, size, dir);
	vduse_bounce_unmap(&d->bounce, iova, size,
			   !(attrs & DMA_ATTR_SKIP_CPU_SYNC));
}

static void vduse_dma_sync_for_device(struct device *dev, dma_addr_t iova,
				      size_t size, enum dma_data_direction dir)
{
	if (dir != DMA_FROM_DEVICE)
		vduse_bounce_sync(&vduse_dma_dev_domain(dev)->bounce, iova,
				  size, true);
}

static void vduse_dma_sync_for_cpu(struct device *dev, dma_addr_t iova,
				   size_t size, enum dma_data_direction dir)
{
	if (dir != DMA_TO_DEVICE)
		vduse_bounce_sync(&vduse_dma_dev_domain(dev)->bounce, iova,
				  size, false);
}

static void *vduse_dma_alloc(struct device *dev, size_t size, dma_addr_t *iova,
			     gfp_t gfp, unsigned long attrs)
{
	*iova = DMA_MAPPING_ERROR;
	return vduse_domain_alloc_coherent(vduse_dma_dev_domain(dev), size,
					   gfp, iova);
}

static void vduse_dma_free(struct device *dev, size_t size, void *vaddr,
			   dma_addr_t iova, unsigned long attrs)
{
	vduse_domain_free_coherent(vduse_dma_dev_domain(dev), vaddr, size,
				   iova);
}

static size_t vduse_dma_max_mapping_size(struct device *dev)
{
	return vduse_dma_dev_domain(dev)->bounce.size;
}

const struct dma_map_ops vduse_dma_ops = {
	.alloc = vduse_dma_alloc,
	.free = vduse_dma_free,
	.map_page = vduse_dma_map_page,
	.unmap_page = vduse_dma_unmap_page,
	.sync_single_for_cpu = vduse_dma_sync_for_cpu,
	.sync_single_for_device = vduse_dma_sync_for_device,
	.max_mapping_size = vduse_dma_max_mapping_size,
};
