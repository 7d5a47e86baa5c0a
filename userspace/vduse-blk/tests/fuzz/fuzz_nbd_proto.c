// SPDX-License-Identifier: MIT
/*
 * Fuzz target: everything that an NBD server says.
 *
 * The first byte chooses: an even one feeds the rest to a handshake in pieces
 * of a size that it also gives; an odd one takes it as answers to a few
 * requests in flight. For reads a bitmap is kept beside the codec's own
 * accounting: nothing may be accepted twice, outside, or be missing at the end.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backend/nbd_proto.h"

#define NFLIGHTS 4
#define BASE	 65536
#define LENGTH	 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
	if (!ok)
		abort();
}

static void handshake(const uint8_t *p, size_t n, size_t piece)
{
	static struct nbd_handshake h;
	enum nbd_handshake_result result = NBD_HANDSHAKE_MORE;
	struct error e = ERROR_INIT;
	unsigned int messages = 0;
	size_t used;

	require(!nbd_handshake_init(&h, "disk", &e));
	while (n && (result == NBD_HANDSHAKE_MORE || result == NBD_HANDSHAKE_SEND)) {
		size_t now = n < piece ? n : piece;

		result = nbd_handshake_feed(&h, p, now, &used, &e);
		require(used <= now);
		require(h.out_len <= sizeof(h.out));
		p += used;
		n -= used;
		if (result == NBD_HANDSHAKE_MORE)
			require(used == now);
		if (h.out_len)
			messages++;
		/* The connection has room for so many. */
		require(messages <= 3);
	}
	require(nbd_handshake_where(&h) != NULL);
	if (result == NBD_HANDSHAKE_FAILED)
		require(e.errnum && e.text[0]);
	if (result == NBD_HANDSHAKE_DONE) {
		require(h.export.size <= INT64_MAX);
		require(is_power_of_2(h.export.min_block));
		require(h.export.max_block >= h.export.min_block);
	}
}

struct model {
	struct nbd_flight flight;
	uint8_t seen[LENGTH];
	int over;
};

static void mark(struct model *m, const struct nbd_reply *r)
{
	require(m->flight.type == 0);
	require(r->offset >= m->flight.offset);
	require(r->length && r->length <= LENGTH);
	require(r->offset + r->length <= m->flight.offset + m->flight.length);
	for (uint32_t i = 0; i < r->length; i++) {
		uint8_t *seen = &m->seen[r->offset - m->flight.offset + i];

		require(!*seen);
		*seen = 1;
	}
}

static void check_end(const struct model *m, int error)
{
	require(error <= 0);
	if (m->flight.type == 0 && !error)
		for (uint32_t i = 0; i < m->flight.length; i++)
			require(m->seen[i]);
}

/* Returns bytes consumed, 0 at the end of the input or after a violation. */
static size_t one_reply(struct model *models, const uint8_t *p, size_t n, bool structured)
{
	struct error e = ERROR_INIT;
	struct nbd_reply r;
	struct model *m;
	size_t used, rest = 0;
	int ret, error;

	ret = nbd_reply_decode(p, n, structured, &r, &e);
	if (!ret)
		require(n < NBD_REPLY_HEADER_MAX);
	if (ret < 0)
		require((ret == -EPROTO || ret == -EBADMSG) && e.text[0]);
	if (ret <= 0)
		return 0;
	used = (size_t)ret;
	require(used <= n && used <= NBD_REPLY_HEADER_MAX);

	m = &models[r.cookie % NFLIGHTS];
	if (m->over || nbd_flight_chunk(&m->flight, &r, structured, &e) < 0)
		return 0;
	if (r.kind == NBD_REPLY_HOLE ||
	    ((r.kind == NBD_REPLY_DATA || r.kind == NBD_REPLY_SIMPLE) && r.length))
		mark(m, &r);
	if (r.kind == NBD_REPLY_DATA || r.kind == NBD_REPLY_SIMPLE)
		rest = r.length;
	if (r.kind == NBD_REPLY_ERROR || r.kind == NBD_REPLY_ERROR_OFFSET) {
		rest = r.tail;
		require(rest <= NBD_ERROR_TAIL_MAX && r.message <= r.tail);
		if (rest > n - used)
			return 0;
		if (nbd_flight_error_tail(&m->flight, &r, p + used, &e) < 0)
			return 0;
	}
	if (r.done) {
		if (nbd_flight_finish(&m->flight, &error, &e) < 0)
			return 0;
		check_end(m, error);
		m->over = 1;
	}
	/* Payload that is not there any more is as good as any. */
	return rest > n - used ? 0 : used + rest;
}

static void replies(const uint8_t *p, size_t n, uint8_t kind)
{
	static const uint16_t types[NFLIGHTS] = { NBD_CMD_READ, NBD_CMD_READ, NBD_CMD_WRITE,
						  NBD_CMD_TRIM };
	static struct model models[NFLIGHTS];
	size_t used;

	memset(models, 0, sizeof(models));
	for (unsigned int i = 0; i < NFLIGHTS; i++)
		nbd_flight_init(&models[i].flight, types[i], BASE * i, i == 1 ? 7 : LENGTH);
	while (n && (used = one_reply(models, p, n, kind & 2))) {
		p += used;
		n -= used;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		replies(data + 1, size - 1, data[0]);
	else
		handshake(data + 1, size - 1, 1 + data[0] / 2);
	return 0;
}
