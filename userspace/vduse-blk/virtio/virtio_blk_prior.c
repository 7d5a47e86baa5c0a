// SPDX-License-Identifier: MIT
/*
 * virtio_blk_prior.c: which bytes of the disk a killed predecessor may still be
 * writing.
 *
 * Looks at what the log says is in flight, without carrying anything out: chains
 * are taken from the log and dropped, and the next virtqueue_init() finds them
 * there again. What it reads is checked like a request, only that nobody is told
 * what is wrong with it: the queue will, when it takes the request for good.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "virtio/inflight.h"
#include "virtio/virtio_blk_internal.h"

/* 16 bytes at an offset of the device-readable part, which has them. */
static void read16(const struct virtqueue_elem *elem, uint32_t offset, void *to)
{
	const struct iovec *iov = elem->iov;
	uint8_t *dest = to;
	size_t left = 16;

	for (; offset >= iov->iov_len; iov++)
		offset -= (uint32_t)iov->iov_len;
	while (left) {
		size_t n = min(left, iov->iov_len - offset);

		memcpy(dest, (const uint8_t *)iov->iov_base + offset, n);
		dest += n;
		left -= n;
		offset = 0;
		iov++;
	}
}

static void add_sectors(struct backend *backend, uint64_t sector, uint64_t bytes)
{
	const uint64_t last = UINT64_MAX >> VBLK_SECTOR_SHIFT;

	if (bytes && sector <= last && bytes <= UINT64_MAX - (sector << VBLK_SECTOR_SHIFT))
		backend_prior_write(backend, sector << VBLK_SECTOR_SHIFT, bytes);
}

static void add_ranges(struct backend *backend, const struct virtqueue_elem *elem)
{
	struct virtio_blk_discard_write_zeroes r;
	uint32_t at, n = 0;

	for (at = 16; elem->out_bytes - at >= 16 && n < VBLK_RANGES_MAX; at += 16, n++) {
		read16(elem, at, &r);
		add_sectors(backend, le64toh(r.sector),
			    (uint64_t)le32toh(r.num_sectors) << VBLK_SECTOR_SHIFT);
	}
}

static void add_request(struct backend *backend, const struct virtqueue_elem *elem)
{
	struct virtio_blk_outhdr header;

	if (elem->out_bytes < sizeof(header))
		return;
	read16(elem, 0, &header);
	switch (le32toh(header.type)) {
	case VIRTIO_BLK_T_OUT:
		add_sectors(backend, le64toh(header.sector), elem->out_bytes - sizeof(header));
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		add_ranges(backend, elem);
		break;
	default:
		break;
	}
}

int vblk_prior_writes(const struct vblk_queue_start_params *params, struct backend *backend,
		      struct error *e)
{
	const struct virtqueue_params vq_params = vblk_virtqueue_params(params);
	struct iovec iov[VBLK_IOV_MAX];
	struct virtqueue_elem elem = { .iov = iov, .max_iov = VBLK_IOV_MAX };
	struct virtqueue vq;
	int err;

	err = virtqueue_init(&vq, &vq_params, e);
	if (err)
		return err;
	while (inflight_pending(params->inflight)) {
		if (virtqueue_pop(&vq, &elem) < 0)
			return err_set(e, EIO, "%s", virtqueue_error(&vq));
		add_request(backend, &elem);
		iotlb_drop(params->iotlb, elem.hold);
	}
	return 0;
}
