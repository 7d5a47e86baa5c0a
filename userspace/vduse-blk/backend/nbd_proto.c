// SPDX-License-Identifier: MIT
/*
 * NBD protocol, client side, transmission phase.
 *
 * The server's stream can only be followed while every length in it makes
 * sense: after a violation nobody knows where the next reply begins, or whose
 * data it is. So each violation is final for its connection, and the text says
 * what was wrong. An error chunk is no violation, it fails one request.
 *
 * Chunks of a read may come in any order and number. What has arrived is kept
 * as sorted, merged ranges, because data that overlaps, or a gap that is
 * hidden by an overlap of the same size, must not be taken for success. Real
 * servers send in ascending order, which keeps the list at one entry. A reply
 * that scatters over more than NBD_MAX_RANGES at a time is refused as if it
 * broke the protocol; memory for it has a bound, and no server is known to do it.
 */
#include "backend/nbd_proto.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bigendian.h"

#define REQUEST_MAGIC	       0x25609513u
#define SIMPLE_REPLY_MAGIC     0x67446698u
#define STRUCTURED_REPLY_MAGIC 0x668e33efu

#define SIMPLE_HEADER	       16
#define CHUNK_HEADER	       20

#define CHUNK_FLAG_DONE	       (1u << 0)

#define CHUNK_NONE	       0
#define CHUNK_OFFSET_DATA      1
#define CHUNK_OFFSET_HOLE      2
#define CHUNK_ERROR_BIT	       (1u << 15)
#define CHUNK_ERROR_OFFSET     (CHUNK_ERROR_BIT + 2)

/* --- requests --- */

void nbd_request_encode(uint8_t out[NBD_REQUEST_SIZE], uint16_t flags, uint16_t type,
			uint64_t cookie, uint64_t offset, uint32_t length)
{
	struct {
		uint32_t magic;
		uint16_t flags;
		uint16_t type;
		uint64_t cookie;
		uint64_t offset;
		uint32_t length;
	} __attribute__((packed)) wire = {
		.magic = htobe32(REQUEST_MAGIC),
		.flags = htobe16(flags),
		.type = htobe16(type),
		.cookie = htobe64(cookie),
		.offset = htobe64(offset),
		.length = htobe32(length),
	};

	_Static_assert(sizeof(wire) == NBD_REQUEST_SIZE, "request header");
	memcpy(out, &wire, sizeof(wire));
}

/* --- headers --- */

/* The protocol's own numbers; they happen to be Linux's, but not everybody's. */
static int errno_from_wire(uint32_t error)
{
	switch (error) {
	case 0:
		return 0;
	case 1:
		return EPERM;
	case 12:
		return ENOMEM;
	case 22:
		return EINVAL;
	case 28:
		return ENOSPC;
	case 75:
		return EOVERFLOW;
	case 95:
		return ENOTSUP;
	case 108:
		return ESHUTDOWN;
	default:
		return EIO;
	}
}

static int decode_simple(const uint8_t *p, size_t n, struct nbd_reply *ret_reply)
{
	if (n < SIMPLE_HEADER)
		return 0;
	*ret_reply = (struct nbd_reply){
		.kind = NBD_REPLY_SIMPLE,
		.done = true,
		.error = errno_from_wire(get_be32(p + 4)),
		.cookie = get_be64(p + 8),
	};
	return SIMPLE_HEADER;
}

static int decode_error_chunk(const uint8_t *p, size_t n, uint16_t type, uint32_t length,
			      struct nbd_reply *r, struct error *e)
{
	uint32_t fixed = type == CHUNK_ERROR_OFFSET ? 14 : 6;

	if (length < fixed)
		return err_set(e, EPROTO, "error chunk of type %u is too short (%u bytes)", type,
			       length);
	if (length - 6 > NBD_ERROR_TAIL_MAX)
		return err_set(e, EPROTO, "error chunk is too long (%u bytes)", length);
	if (n < CHUNK_HEADER + 6)
		return 0;
	r->kind = type == CHUNK_ERROR_OFFSET ? NBD_REPLY_ERROR_OFFSET : NBD_REPLY_ERROR;
	r->error = errno_from_wire(get_be32(p + CHUNK_HEADER));
	r->message = get_be16(p + CHUNK_HEADER + 4);
	r->tail = length - 6;
	if (!r->error)
		return err_set(e, EPROTO, "error chunk without an error");
	if (r->message > length - fixed)
		return err_set(e, EPROTO, "message of an error chunk is longer than the chunk");
	return CHUNK_HEADER + 6;
}

static int decode_data_chunk(const uint8_t *p, size_t n, uint32_t length, struct nbd_reply *r,
			     struct error *e)
{
	if (length < 9)
		return err_set(e, EPROTO, "data chunk is too short (%u bytes)", length);
	if (n < CHUNK_HEADER + 8)
		return 0;
	r->kind = NBD_REPLY_DATA;
	r->offset = get_be64(p + CHUNK_HEADER);
	r->length = length - 8;
	return CHUNK_HEADER + 8;
}

static int decode_hole_chunk(const uint8_t *p, size_t n, uint32_t length, struct nbd_reply *r,
			     struct error *e)
{
	if (length != 12)
		return err_set(e, EPROTO, "hole chunk has a wrong length (%u bytes)", length);
	if (n < CHUNK_HEADER + 12)
		return 0;
	r->kind = NBD_REPLY_HOLE;
	r->offset = get_be64(p + CHUNK_HEADER);
	r->length = get_be32(p + CHUNK_HEADER + 8);
	if (!r->length)
		return err_set(e, EPROTO, "hole chunk of zero bytes");
	return CHUNK_HEADER + 12;
}

static int decode_chunk(const uint8_t *p, size_t n, struct nbd_reply *ret_reply, struct error *e)
{
	struct nbd_reply r = { 0 };
	uint16_t type;
	uint32_t length;
	int used;

	if (n < CHUNK_HEADER)
		return 0;
	r.done = get_be16(p + 4) & CHUNK_FLAG_DONE;
	type = get_be16(p + 6);
	r.cookie = get_be64(p + 8);
	length = get_be32(p + 16);

	if (type & CHUNK_ERROR_BIT) {
		used = decode_error_chunk(p, n, type, length, &r, e);
	} else if (type == CHUNK_OFFSET_DATA) {
		used = decode_data_chunk(p, n, length, &r, e);
	} else if (type == CHUNK_OFFSET_HOLE) {
		used = decode_hole_chunk(p, n, length, &r, e);
	} else if (type == CHUNK_NONE) {
		if (length)
			return err_set(e, EPROTO, "empty chunk with %u bytes", length);
		if (!r.done)
			return err_set(e, EPROTO, "empty chunk that is not the last");
		r.kind = NBD_REPLY_NONE;
		used = CHUNK_HEADER;
	} else {
		return err_set(e, EPROTO, "unknown chunk type %u", type);
	}
	if (used > 0)
		*ret_reply = r;
	return used;
}

int nbd_reply_decode(const uint8_t *p, size_t n, bool structured, struct nbd_reply *ret_reply,
		     struct error *e)
{
	uint32_t magic;

	if (n < 4)
		return 0;
	magic = get_be32(p);
	if (magic == SIMPLE_REPLY_MAGIC)
		return decode_simple(p, n, ret_reply);
	if (magic != STRUCTURED_REPLY_MAGIC) {
		err_set(e, EPROTO, "wrong reply magic 0x%08x", magic);
		return -EBADMSG;
	}
	if (!structured)
		return err_set(e, EPROTO, "structured reply that was not negotiated");
	return decode_chunk(p, n, ret_reply, e);
}

/* --- replies against their request --- */

void nbd_flight_init(struct nbd_flight *f, uint16_t type, uint64_t offset, uint32_t length)
{
	f->type = type;
	f->any_chunk = false;
	f->error = 0;
	f->offset = offset;
	f->length = length;
	f->received = 0;
	f->nranges = 0;
}

static int check_simple(struct nbd_flight *f, struct nbd_reply *r, bool structured, struct error *e)
{
	if (f->any_chunk)
		return err_set(e, EPROTO, "simple reply after a chunk of the same answer");
	if (f->type == NBD_CMD_READ && structured)
		return err_set(e, EPROTO,
			       "simple reply to a read though structured replies were negotiated");
	f->error = r->error;
	if (f->type == NBD_CMD_READ && !r->error) {
		r->offset = f->offset;
		r->length = f->length;
		f->received = f->length;
	}
	return 0;
}

/* Adds [start, end) to the sorted ranges, merging with its neighbours. */
static int add_range(struct nbd_flight *f, uint64_t start, uint64_t end, struct error *e)
{
	unsigned int i = f->nranges;
	bool joins_left, joins_right;

	while (i && f->ranges[i - 1].start >= start)
		i--;
	if ((i && f->ranges[i - 1].end > start) || (i < f->nranges && f->ranges[i].start < end))
		return err_set(e, EPROTO, "chunks of a read overlap at offset %" PRIu64, start);

	joins_left = i && f->ranges[i - 1].end == start;
	joins_right = i < f->nranges && f->ranges[i].start == end;
	if (joins_left && joins_right) {
		f->ranges[i - 1].end = f->ranges[i].end;
		f->nranges--;
		memmove(&f->ranges[i], &f->ranges[i + 1], (f->nranges - i) * sizeof(f->ranges[0]));
	} else if (joins_left) {
		f->ranges[i - 1].end = end;
	} else if (joins_right) {
		f->ranges[i].start = start;
	} else {
		if (f->nranges == NBD_MAX_RANGES)
			return err_set(e, EPROTO,
				       "chunks of a read are scattered over more than %d pieces",
				       NBD_MAX_RANGES);
		memmove(&f->ranges[i + 1], &f->ranges[i], (f->nranges - i) * sizeof(f->ranges[0]));
		f->ranges[i].start = start;
		f->ranges[i].end = end;
		f->nranges++;
	}
	return 0;
}

static int check_content(struct nbd_flight *f, const struct nbd_reply *r, struct error *e)
{
	int ret;

	if (f->type != NBD_CMD_READ)
		return err_set(e, EPROTO, "content chunk for a request that is no read");
	if (r->offset < f->offset || r->offset - f->offset >= f->length ||
	    r->length > f->length - (r->offset - f->offset))
		return err_set(e, EPROTO,
			       "chunk at %" PRIu64 "+%u is outside its request at %" PRIu64 "+%u",
			       r->offset, r->length, f->offset, f->length);
	ret = add_range(f, r->offset, r->offset + r->length, e);
	if (ret < 0)
		return ret;
	f->received += r->length;
	return 0;
}

int nbd_flight_chunk(struct nbd_flight *f, struct nbd_reply *r, bool structured, struct error *e)
{
	if (r->kind == NBD_REPLY_SIMPLE)
		return check_simple(f, r, structured, e);

	f->any_chunk = true;
	switch (r->kind) {
	case NBD_REPLY_DATA:
	case NBD_REPLY_HOLE:
		return check_content(f, r, e);
	case NBD_REPLY_ERROR:
	case NBD_REPLY_ERROR_OFFSET:
		if (!f->error)
			f->error = r->error;
		return 0;
	default:
		return 0;
	}
}

int nbd_flight_error_tail(struct nbd_flight *f, const struct nbd_reply *r, const uint8_t *tail,
			  struct error *e)
{
	uint64_t offset;

	if (r->kind != NBD_REPLY_ERROR_OFFSET)
		return 0;
	offset = get_be64(tail + r->message);
	if (offset < f->offset || offset - f->offset >= f->length)
		return err_set(e, EPROTO,
			       "error at offset %" PRIu64 " is outside its request at %" PRIu64
			       "+%u",
			       offset, f->offset, f->length);
	return 0;
}

int nbd_flight_finish(const struct nbd_flight *f, int *ret_error, struct error *e)
{
	if (!f->error && f->type == NBD_CMD_READ && f->received != f->length)
		return err_set(e, EPROTO, "read claims success with %u of %u bytes", f->received,
			       f->length);
	*ret_error = -f->error;
	return 0;
}
