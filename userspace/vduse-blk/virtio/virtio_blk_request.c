// SPDX-License-Identifier: MIT
/*
 * virtio_blk_request.c: one request, from its descriptors to its status (virtio
 * 1.2, 5.2.6).
 *
 *	device-readable: header (16 bytes) [data to be written, or ranges]
 *	device-writable: [room for what is read] status (last byte)
 *
 * How that is cut into descriptors means nothing (2.7.4.1): the header may be
 * spread over several, or share one with the data; the status too.
 *
 * Every request is checked here, once, from a copy of what the driver wrote; the
 * backend gets nothing that is out of range or unaligned. A request that is
 * wrong gets IOERR; one that we do not know, or with flags that we do not know,
 * UNSUPP (5.2.6.2). Only a chain without room for a status breaks the queue:
 * nothing else could be said to its driver.
 *
 * Most requests are one backend request. Discard and write-zeroes are one for
 * each range, one after the other. When the driver did not negotiate
 * VIRTIO_BLK_F_FLUSH and the storage has a volatile cache, writes must be stable
 * when they are done: FUA where the storage can, else a flush behind the write.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "base/log.h"
#include "virtio/virtio_blk_internal.h"

#define HEADER_BYTES	sizeof(struct virtio_blk_outhdr)
#define RANGE_BYTES	sizeof(struct virtio_blk_discard_write_zeroes)

_Static_assert(HEADER_BYTES == 16 && RANGE_BYTES == 16, "span_take16() takes these");

/* A part of the chain's iov array; taking from its front changes the entries. */
struct span {
	struct iovec *iov;
	unsigned int num;
	uint32_t bytes;
};

static inline void span_drop(struct span *s, size_t n)
{
	struct iovec *iov = s->iov;

	s->bytes -= (uint32_t)n;
	iov->iov_base = (uint8_t *)iov->iov_base + n;
	iov->iov_len -= n;
	if (!iov->iov_len) {
		s->iov++;
		s->num--;
	}
}

static void span_take_pieces(struct span *s, void *to, size_t len)
{
	uint8_t *dest = to;

	while (len) {
		size_t n = min(len, s->iov->iov_len);

		memcpy(dest, s->iov->iov_base, n);
		span_drop(s, n);
		dest += n;
		len -= n;
	}
}

/*
 * Copy 16 bytes, a header or a range, from the front of the span and drop them;
 * it has that many. Usually they are in one piece. The barrier keeps the compiler
 * from reading the driver's memory again.
 */
static inline void span_take16(struct span *s, void *to)
{
	if (likely(s->iov->iov_len >= 16)) {
		memcpy(to, s->iov->iov_base, 16);
		span_drop(s, 16);
	} else {
		span_take_pieces(s, to, 16);
	}
	__asm__ volatile("" : : : "memory");
}

/* The byte at the end of the device-writable part. */
static uint8_t *span_take_last(struct span *s)
{
	struct iovec *last = &s->iov[s->num - 1];

	s->bytes--;
	if (--last->iov_len == 0)
		s->num--;
	return (uint8_t *)last->iov_base + last->iov_len;
}

static void span_write(const struct span *s, const void *from, size_t len)
{
	const uint8_t *src = from;
	unsigned int i;

	for (i = 0; i < s->num && len; i++) {
		size_t n = min(len, s->iov[i].iov_len);

		memcpy(s->iov[i].iov_base, src, n);
		src += n;
		len -= n;
	}
}

static void refuse(struct vblk_request *req, uint8_t status, uint32_t type, uint64_t sector,
		   uint32_t bytes, const char *why)
{
	log_warning_ratelimited("queue %u: request of type %u, sector %" PRIu64
				", %u bytes: %s: %s", req->queue->params.index, type, sector,
				bytes, why, status == VIRTIO_BLK_S_UNSUPP ? "not supported" :
				"I/O error");
	vblk_queue_complete(req, status);
}

static void submit(struct vblk_request *req)
{
	backend_submit(req->queue->params.backend, &req->backend);
}

/* Is [sector, sector + count) on the disk and made of whole blocks? NULL or why not. */
static const char *check_extent(const struct vblk_device *dev, uint64_t sector, uint64_t count)
{
	const uint64_t mask = (dev->block_size >> VBLK_SECTOR_SHIFT) - 1;
	const uint64_t capacity = READ_ONCE(dev->capacity);

	if (unlikely(!count))
		return "no data";
	if (unlikely(sector > capacity || count > capacity - sector))
		return "beyond the end of the disk";
	if (unlikely((sector | count) & mask))
		return "not aligned to the block size";
	return NULL;
}

static void start_transfer(struct vblk_request *req, uint32_t type, uint64_t sector,
			   const struct span *data)
{
	const struct vblk_device *dev = req->queue->dev;
	struct backend_request *b = &req->backend;
	const char *why;

	if (unlikely(data->bytes % VBLK_SECTOR_SIZE))
		why = "length is not a multiple of 512";
	else
		why = check_extent(dev, sector, data->bytes >> VBLK_SECTOR_SHIFT);
	if (unlikely(why)) {
		refuse(req, VIRTIO_BLK_S_IOERR, type, sector, data->bytes, why);
		return;
	}
	req->payload = data->bytes;
	b->op = type == VIRTIO_BLK_T_IN ? BACKEND_READ : BACKEND_WRITE;
	b->offset = sector << VBLK_SECTOR_SHIFT;
	b->length = data->bytes;
	b->iov = data->iov;
	b->niov = data->num;
	submit(req);
}

static void start_read(struct vblk_request *req, uint64_t sector, const struct span *in)
{
	req->kind = VBLK_READ;
	req->written = in->bytes + 1;
	start_transfer(req, VIRTIO_BLK_T_IN, sector, in);
}

/* Nothing but FLUSH makes completed writes stable, and this driver sends none. */
static void make_stable(struct vblk_request *req)
{
	if (req->queue->dev->backend_flags & BACKEND_F_FUA)
		req->backend.flags |= BACKEND_REQ_FUA;
	else
		req->flush_after = true;
}

/* A predecessor may have sent it already (vblk_prior_writes()). */
static inline void mark_resubmitted(struct vblk_request *req)
{
	if (unlikely(req->elem.resubmitted))
		req->backend.flags |= BACKEND_REQ_RESUBMIT;
}

static void start_write(struct vblk_request *req, uint64_t sector, const struct span *out)
{
	req->kind = VBLK_WRITE;
	if (unlikely(READ_ONCE(req->queue->dev->read_only))) {
		refuse(req, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_T_OUT, sector, out->bytes,
		       "the disk is read-only");
		return;
	}
	if (req->queue->write_through)
		make_stable(req);
	mark_resubmitted(req);
	start_transfer(req, VIRTIO_BLK_T_OUT, sector, out);
}

static void submit_flush(struct vblk_request *req)
{
	req->backend.op = BACKEND_FLUSH;
	req->backend.flags = 0;
	req->backend.offset = 0;
	req->backend.length = 0;
	req->backend.iov = NULL;
	req->backend.niov = 0;
	submit(req);
}

/* Several queues may see it; one of them reports it. */
static bool owes_flush_error(const struct vblk_device *dev)
{
	return unlikely(READ_ONCE(*dev->flush_owed)) &&
	       __atomic_exchange_n(dev->flush_owed, 0, __ATOMIC_ACQ_REL);
}

/* Storage without a volatile cache needs no flush to have everything stable. */
static void start_flush(struct vblk_request *req)
{
	req->kind = VBLK_FLUSH;
	if (owes_flush_error(req->queue->dev))
		vblk_queue_complete(req, VIRTIO_BLK_S_IOERR);
	else if (req->queue->dev->backend_flags & BACKEND_F_FLUSH)
		submit_flush(req);
	else
		vblk_queue_complete(req, VIRTIO_BLK_S_OK);
}

/* 5.2.6: 20 bytes, padded with NUL; a shorter buffer gets the beginning. */
static void start_get_id(struct vblk_request *req, const struct span *in)
{
	uint32_t len = min(in->bytes, (uint32_t)VBLK_ID_BYTES);

	if (!len) {
		refuse(req, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_T_GET_ID, 0, 0, "no data");
		return;
	}
	span_write(in, req->queue->dev->id, len);
	req->written = len + (len == in->bytes);
	vblk_queue_complete(req, VIRTIO_BLK_S_OK);
}

static void submit_range(struct vblk_request *req)
{
	const struct vblk_range *range = &req->ranges[req->next_range++];

	req->backend.offset = range->offset;
	req->backend.length = range->length;
	submit(req);
}

/*
 * Take the ranges of a discard or write-zeroes request and check all of them
 * before the first is carried out. Returns NULL, or why it is refused.
 */
static const char *take_ranges(struct vblk_request *req, uint32_t type, struct span *out,
			       uint8_t *ret_status)
{
	const struct virtio_blk_config *c = &req->queue->dev->config;
	const bool discard = type == VIRTIO_BLK_T_DISCARD;
	const uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	const uint32_t longest = le32toh(discard ? c->max_discard_sectors :
					 c->max_write_zeroes_sectors);
	const uint32_t num = out->bytes / RANGE_BYTES;
	bool may_unmap = true;
	const char *why = NULL;
	uint32_t i;

	*ret_status = VIRTIO_BLK_S_IOERR;
	if (!num || out->bytes % RANGE_BYTES)
		return "ranges are not a multiple of 16 bytes";
	if (num > VBLK_RANGES_MAX)
		return "too many ranges";
	for (i = 0; i < num; i++) {
		struct virtio_blk_discard_write_zeroes r;
		uint64_t sector;
		uint32_t count;

		span_take16(out, &r);
		if (le32toh(r.flags) & ~known) {
			*ret_status = VIRTIO_BLK_S_UNSUPP;
			return "a flag that is not known or not allowed";
		}
		may_unmap &= !!(le32toh(r.flags) & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
		sector = le64toh(r.sector);
		count = le32toh(r.num_sectors);
		if (!why)
			why = count > longest ? "range is too long" :
			      check_extent(req->queue->dev, sector, count);
		req->ranges[i] = (struct vblk_range){
			.offset = sector << VBLK_SECTOR_SHIFT,
			.length = (uint64_t)count << VBLK_SECTOR_SHIFT,
		};
	}
	req->num_ranges = (uint8_t)num;
	if (!discard && may_unmap)
		req->backend.flags |= BACKEND_REQ_MAY_UNMAP;
	return why;
}

static void start_ranges(struct vblk_request *req, uint32_t type, struct span *out)
{
	const struct vblk_device *dev = req->queue->dev;
	const bool discard = type == VIRTIO_BLK_T_DISCARD;
	const uint32_t needed = discard ? BACKEND_F_DISCARD : BACKEND_F_WRITE_ZEROES;
	const uint32_t bytes = out->bytes;
	uint8_t status = VIRTIO_BLK_S_OK;
	const char *why;

	req->kind = discard ? VBLK_DISCARD : VBLK_WRITE_ZEROES;
	if (READ_ONCE(dev->read_only)) {
		status = VIRTIO_BLK_S_IOERR;
		why = "the disk is read-only";
	} else if (!(dev->backend_flags & needed)) {
		status = VIRTIO_BLK_S_UNSUPP;
		why = "the storage cannot do that";
	} else {
		why = take_ranges(req, type, out, &status);
	}
	if (why) {
		refuse(req, status, type, 0, bytes, why);
		return;
	}
	req->backend.op = discard ? BACKEND_DISCARD : BACKEND_WRITE_ZEROES;
	req->backend.iov = NULL;
	req->backend.niov = 0;
	if (!discard && req->queue->write_through)
		make_stable(req);
	mark_resubmitted(req);
	submit_range(req);
}

static uint8_t status_of(int error)
{
	switch (error) {
	case 0:
		return VIRTIO_BLK_S_OK;
	case -EOPNOTSUPP:
	case -ENOSYS:
		return VIRTIO_BLK_S_UNSUPP;
	default:
		return VIRTIO_BLK_S_IOERR;
	}
}

static void failed(struct vblk_request *req, int error)
{
	const struct backend_request *b = &req->backend;

	log_warning_ratelimited("queue %u: %s of %" PRIu64 " bytes at offset %" PRIu64
				" failed: %s", req->queue->params.index, backend_op_name(b->op),
				b->length, b->offset, strerror(-error));
}

static void backend_done(struct backend_request *b, int error)
{
	struct vblk_request *req = container_of(b, struct vblk_request, backend);

	if (unlikely(error)) {
		failed(req, error);
	} else if (unlikely(req->next_range < req->num_ranges)) {
		submit_range(req);
		return;
	} else if (unlikely(req->flush_after)) {
		req->flush_after = false;
		submit_flush(req);
		return;
	}
	vblk_queue_complete(req, status_of(error));
}

static void start_by_type(struct vblk_request *req, const struct virtio_blk_outhdr *header,
			  struct span *out, struct span *in)
{
	const uint32_t type = le32toh(header->type);

	if (unlikely(READ_ONCE(req->queue->dev->failing)) && type != VIRTIO_BLK_T_GET_ID) {
		refuse(req, VIRTIO_BLK_S_IOERR, type, le64toh(header->sector), out->bytes,
		       "the storage is not waited for any more");
		return;
	}
	switch (type) {
	case VIRTIO_BLK_T_IN:
		start_read(req, le64toh(header->sector), in);
		break;
	case VIRTIO_BLK_T_OUT:
		start_write(req, le64toh(header->sector), out);
		break;
	case VIRTIO_BLK_T_FLUSH:
		start_flush(req);
		break;
	case VIRTIO_BLK_T_GET_ID:
		start_get_id(req, in);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		start_ranges(req, type, out);
		break;
	default:
		refuse(req, VIRTIO_BLK_S_UNSUPP, type, le64toh(header->sector), out->bytes,
		       "type is not known");
		break;
	}
}

void vblk_request_start(struct vblk_request *req)
{
	struct virtqueue_elem *elem = &req->elem;
	struct span out = { elem->iov, elem->out_num, elem->out_bytes };
	struct span in = { elem->iov + elem->out_num, elem->in_num, elem->in_bytes };
	struct virtio_blk_outhdr header;

	if (unlikely(!in.bytes)) {
		virtqueue_break(&req->queue->vq, "request without a byte for its status");
		req->status = NULL;
		vblk_queue_complete(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	req->status = span_take_last(&in);
	req->kind = VBLK_OTHER;
	req->payload = 0;
	req->written = 1;
	req->flush_after = false;
	req->next_range = 0;
	req->num_ranges = 0;
	req->backend.flags = 0;
	req->backend.done = backend_done;
	if (unlikely(out.bytes < HEADER_BYTES)) {
		refuse(req, VIRTIO_BLK_S_IOERR, UINT32_MAX, 0, out.bytes,
		       "header is shorter than 16 bytes");
		return;
	}
	span_take16(&out, &header);
	start_by_type(req, &header, &out, &in);
}
