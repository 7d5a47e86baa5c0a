// SPDX-License-Identifier: MIT
/*
 * virtio_blk_device.c: features and configuration space (virtio 1.2, 5.2.3 to
 * 5.2.5).
 *
 * Nothing is offered that the backend cannot do itself: the driver then finds
 * another way, which is always better than an emulation here. There is no
 * VIRTIO_BLK_F_CONFIG_WCE: the cache mode cannot be switched through a
 * read-only configuration space.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "backend/backend.h"
#include "virtio/virtio_blk.h"

#define FEATURE(bit)		(1ull << (bit))

/* When the backend names no limit. Long commands keep a server busy for long. */
#define DEFAULT_RANGE_BYTES	(1u << 30)

static int check_params(const struct vblk_device_params *p, struct error *e)
{
	const struct backend_info *info = p->info;

	if (!p->num_queues || p->num_queues > UINT16_MAX)
		return err_set(e, EINVAL, "%u queues: not within 1 to %u", p->num_queues,
			       UINT16_MAX);
	if (!p->queue_size || p->queue_size > VIRTQUEUE_MAX_NUM)
		return err_set(e, EINVAL, "queue size %u: not within 1 to %u", p->queue_size,
			       VIRTQUEUE_MAX_NUM);
	if (!is_power_of_2(info->block_size) || info->block_size < VBLK_SECTOR_SIZE ||
	    info->block_size > BACKEND_MAX_BLOCK_SIZE)
		return err_set(e, EINVAL, "block size %u of the backend: not a power of two"
			       " from %u to %u", info->block_size, VBLK_SECTOR_SIZE,
			       BACKEND_MAX_BLOCK_SIZE);
	if (p->block_size && (!is_power_of_2(p->block_size) ||
			      p->block_size < info->block_size ||
			      p->block_size > BACKEND_MAX_BLOCK_SIZE))
		return err_set(e, EINVAL, "block size %u: not a power of two from %u to %u",
			       p->block_size, info->block_size, BACKEND_MAX_BLOCK_SIZE);
	return 0;
}

static uint64_t offered_features(const struct vblk_device *dev,
				 const struct vblk_device_params *p)
{
	uint64_t features = FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_F_ACCESS_PLATFORM) |
			    FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
			    FEATURE(VIRTIO_RING_F_EVENT_IDX) | FEATURE(VIRTIO_BLK_F_SEG_MAX) |
			    FEATURE(VIRTIO_BLK_F_BLK_SIZE) | FEATURE(VIRTIO_BLK_F_TOPOLOGY);

	if (p->packed)
		features |= FEATURE(VIRTIO_F_RING_PACKED);
	if (p->num_queues > 1)
		features |= FEATURE(VIRTIO_BLK_F_MQ);
	if (p->max_request)
		features |= FEATURE(VIRTIO_BLK_F_SIZE_MAX);
	if (dev->read_only)
		return features | FEATURE(VIRTIO_BLK_F_RO);
	if (dev->backend_flags & BACKEND_F_FLUSH)
		features |= FEATURE(VIRTIO_BLK_F_FLUSH);
	if (dev->backend_flags & BACKEND_F_DISCARD)
		features |= FEATURE(VIRTIO_BLK_F_DISCARD);
	if (dev->backend_flags & BACKEND_F_WRITE_ZEROES)
		features |= FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
	return features;
}

/* Longest range of a discard or write-zeroes segment, in sectors. */
static uint32_t range_sectors(uint32_t limit_bytes, uint32_t block_size)
{
	uint64_t bytes = round_down(limit_bytes ? limit_bytes : DEFAULT_RANGE_BYTES, block_size);

	return (uint32_t)(max(bytes, (uint64_t)block_size) >> VBLK_SECTOR_SHIFT);
}

/*
 * Topology (5.2.4) counts logical blocks, the physical block is a power of two
 * of them. File systems align to the physical block: we say what the storage
 * prefers, up to what Linux takes as a block.
 */
static void fill_topology(struct virtio_blk_config *c, const struct backend_info *info,
			  uint32_t block_size)
{
	uint32_t physical = min(info->preferred_block, (uint32_t)BACKEND_MAX_BLOCK_SIZE);
	uint8_t exponent = 0;

	while (exponent < 7 && block_size << (exponent + 1) <= physical)
		exponent++;
	c->physical_block_exp = exponent;
	c->alignment_offset = 0;
	c->min_io_size = htole16((uint16_t)(1u << exponent));
	c->opt_io_size = 0;
	if (info->preferred_block > block_size << exponent)
		c->opt_io_size = htole32(info->preferred_block / block_size);
}

/* Segments of data in one request; header and status take two more entries. */
static uint32_t segments(const struct vblk_device_params *p)
{
	uint32_t n = p->queue_size > 2 ? min(p->queue_size - 2, VBLK_SEG_MAX) : 1;

	if (p->max_request)
		n = min(n, max(p->max_request / VBLK_LIMITED_SEG_SIZE, 1u));
	return n;
}

static void fill_config(struct vblk_device *dev, const struct vblk_device_params *p)
{
	const uint32_t sectors_per_block = dev->block_size >> VBLK_SECTOR_SHIFT;
	struct virtio_blk_config *c = &dev->config;

	c->capacity = htole64(dev->capacity);
	c->size_max = htole32(p->max_request ? VBLK_LIMITED_SEG_SIZE : 0);
	c->seg_max = htole32(segments(p));
	c->blk_size = htole32(dev->block_size);
	fill_topology(c, p->info, dev->block_size);
	c->num_queues = htole16((uint16_t)p->num_queues);
	if (dev->features & FEATURE(VIRTIO_BLK_F_DISCARD)) {
		c->max_discard_sectors =
			htole32(range_sectors(p->info->max_discard, dev->block_size));
		c->max_discard_seg = htole32(VBLK_RANGES_MAX);
		c->discard_sector_alignment = htole32(sectors_per_block);
	}
	if (dev->features & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES)) {
		c->max_write_zeroes_sectors =
			htole32(range_sectors(p->info->max_write_zeroes, dev->block_size));
		c->max_write_zeroes_seg = htole32(VBLK_RANGES_MAX);
		c->write_zeroes_may_unmap = 1;
	}
}

int vblk_device_init(struct vblk_device *dev, const struct vblk_device_params *params,
		     struct error *e)
{
	const struct backend_info *info = params->info;
	uint32_t block_size;
	int err;

	err = check_params(params, e);
	if (err)
		return err;
	block_size = params->block_size ? params->block_size : info->block_size;
	if (!info->size || !is_aligned(info->size, block_size))
		return err_set(e, EINVAL, "size %llu of the disk is not a multiple of its block"
			       " size %u", (unsigned long long)info->size, block_size);

	memset(dev, 0, sizeof(*dev));
	dev->capacity = info->size >> VBLK_SECTOR_SHIFT;
	dev->block_size = block_size;
	dev->backend_flags = info->flags;
	dev->read_only = params->read_only || (info->flags & BACKEND_F_READ_ONLY);
	dev->flush_owed = &dev->own_flush_owed;
	if (params->serial)
		memcpy(dev->id, params->serial, strnlen(params->serial, VBLK_ID_BYTES));
	dev->features = offered_features(dev, params);
	fill_config(dev, params);
	return 0;
}

int vblk_device_set_capacity(struct vblk_device *dev, uint64_t bytes)
{
	const uint64_t capacity = round_down(bytes, dev->block_size) >> VBLK_SECTOR_SHIFT;

	if (capacity <= dev->capacity)
		return -EINVAL;
	dev->config.capacity = htole64(capacity);
	WRITE_ONCE(dev->capacity, capacity);
	return 0;
}

void vblk_device_set_read_only(struct vblk_device *dev, bool read_only)
{
	WRITE_ONCE(dev->read_only, read_only);
}

void vblk_device_owe_flush_error(struct vblk_device *dev)
{
	__atomic_store_n(dev->flush_owed, 1, __ATOMIC_RELEASE);
}

bool vblk_device_owes_flush_error(const struct vblk_device *dev)
{
	return __atomic_load_n(dev->flush_owed, __ATOMIC_ACQUIRE);
}

void vblk_device_keep_flush_error(struct vblk_device *dev, uint8_t *owed)
{
	dev->flush_owed = owed;
}

void vblk_device_set_failing(struct vblk_device *dev, bool failing)
{
	WRITE_ONCE(dev->failing, failing);
}
