// SPDX-License-Identifier: MIT
/*
 * The NBD codec by itself: bytes on the wire, headers cut at every place,
 * accounting of scattered chunks against a bitmap. What a whole connection
 * makes of a bad server is in test_nbd_server.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "backend/nbd_conn.h"
#include "backend/nbd_proto.h"

static void test_request(void **state)
{
	static const uint8_t want[NBD_REQUEST_SIZE] = {
		0x25, 0x60, 0x95, 0x13, 0x00, 0x03, 0x00, 0x06, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06,
		0x07, 0x08, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24,
	};
	uint8_t out[NBD_REQUEST_SIZE];

	(void)state;
	nbd_request_encode(out, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES,
			   0x0102030405060708, 0x1112131415161718, 0x21222324);
	assert_memory_equal(out, want, sizeof(want));
}

/* --- headers --- */

struct header {
	uint8_t bytes[NBD_REPLY_HEADER_MAX];
	int size;
	struct nbd_reply want;
};

#define SIMPLE	     0x67, 0x44, 0x66, 0x98
#define CHUNK	     0x66, 0x8e, 0x33, 0xef
#define COOKIE	     0, 0, 0, 9, 0, 0, 0, 7
#define COOKIE_VALUE 0x900000007

static const struct header headers[] = {
	{ { SIMPLE, 0, 0, 0, 0, COOKIE },
	  16,
	  { .kind = NBD_REPLY_SIMPLE, .done = true, .cookie = COOKIE_VALUE } },
	{ { SIMPLE, 0, 0, 0, 28, COOKIE },
	  16,
	  { .kind = NBD_REPLY_SIMPLE, .done = true, .cookie = COOKIE_VALUE, .error = ENOSPC } },
	{ { SIMPLE, 0xff, 0, 0, 0, COOKIE },
	  16,
	  { .kind = NBD_REPLY_SIMPLE, .done = true, .cookie = COOKIE_VALUE, .error = EIO } },
	{ { CHUNK, 0, 1, 0, 0, COOKIE, 0, 0, 0, 0 },
	  20,
	  { .kind = NBD_REPLY_NONE, .done = true, .cookie = COOKIE_VALUE } },
	{ { CHUNK, 0, 0, 0, 1, COOKIE, 0, 0, 2, 8, 0, 0, 0, 0, 0, 1, 0, 0 },
	  28,
	  { .kind = NBD_REPLY_DATA, .cookie = COOKIE_VALUE, .offset = 65536, .length = 512 } },
	{ { CHUNK, 0xff, 0xff, 0, 2, COOKIE, 0, 0, 0, 12, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 16, 0 },
	  32,
	  { .kind = NBD_REPLY_HOLE,
	    .done = true,
	    .cookie = COOKIE_VALUE,
	    .offset = 65536,
	    .length = 4096 } },
	{ { CHUNK, 0, 1, 0x80, 1, COOKIE, 0, 0, 0, 9, 0, 0, 0, 1, 0, 3 },
	  26,
	  { .kind = NBD_REPLY_ERROR,
	    .done = true,
	    .cookie = COOKIE_VALUE,
	    .error = EPERM,
	    .tail = 3,
	    .message = 3 } },
	{ { CHUNK, 0, 0, 0x80, 2, COOKIE, 0, 0, 0, 16, 0, 0, 0, 12, 0, 2 },
	  26,
	  { .kind = NBD_REPLY_ERROR_OFFSET,
	    .cookie = COOKIE_VALUE,
	    .error = ENOMEM,
	    .tail = 10,
	    .message = 2 } },
	{ { CHUNK, 0, 0, 0xff, 0xff, COOKIE, 0, 0, 0, 6, 0, 0, 0, 108, 0, 0 },
	  26,
	  { .kind = NBD_REPLY_ERROR, .cookie = COOKIE_VALUE, .error = ESHUTDOWN } },
};

static void test_headers(void **state)
{
	struct error e = ERROR_INIT;
	struct nbd_reply r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		const struct header *h = &headers[i];
		const struct nbd_reply *w = &h->want;

		/* Incomplete at every length: asks for more, touches nothing. */
		for (int n = 0; n < h->size; n++) {
			/* Of exactly that size, so that ASan sees a read beyond it. */
			uint8_t *exact = malloc(n ? (size_t)n : 1);

			memcpy(exact, h->bytes, (size_t)n);
			memset(&r, 0x5a, sizeof(r));
			if (nbd_reply_decode(exact, (size_t)n, true, &r, &e))
				fail_msg("row %zu: %d bytes were enough", i, n);
			assert_int_equal(((uint8_t *)&r)[0], 0x5a);
			free(exact);
		}
		assert_int_equal(nbd_reply_decode(h->bytes, NBD_REPLY_HEADER_MAX, true, &r, &e),
				 h->size);
		if (r.kind != w->kind || r.done != w->done || r.cookie != w->cookie ||
		    r.error != w->error || r.offset != w->offset || r.length != w->length ||
		    r.tail != w->tail || r.message != w->message)
			fail_msg("row %zu was decoded wrong", i);
	}
}

/* --- scattered chunks --- */

static struct nbd_reply data_chunk(uint64_t offset, uint32_t length)
{
	return (struct nbd_reply){ .kind = NBD_REPLY_DATA, .offset = offset, .length = length };
}

/* All of a read in random order: accepted, each piece once, complete at the end. */
static void test_scattered(void **state)
{
	enum {
		PIECES = 2 * NBD_MAX_RANGES,
		LENGTH = 64
	};
	struct error e = ERROR_INIT;
	struct nbd_flight f;
	unsigned int rng = 1;
	int error;

	(void)state;
	for (int round = 0; round < 2000; round++) {
		unsigned int order[PIECES];

		for (unsigned int i = 0; i < PIECES; i++)
			order[i] = i;
		for (unsigned int i = PIECES - 1; i; i--) {
			unsigned int j, t;

			rng = rng * 1103515245 + 12345;
			j = (rng >> 8) % (i + 1);
			t = order[i];
			order[i] = order[j];
			order[j] = t;
		}
		nbd_flight_init(&f, NBD_CMD_READ, 1000, PIECES * LENGTH);
		for (unsigned int i = 0; i < PIECES; i++) {
			struct nbd_reply r = data_chunk(1000 + order[i] * LENGTH, LENGTH);
			struct nbd_reply first = data_chunk(1000 + order[0] * LENGTH, LENGTH);

			assert_int_equal(nbd_flight_finish(&f, &error, &e), -EPROTO);
			/* Half of them apart is the most that can be scattered. */
			if (nbd_flight_chunk(&f, &r, true, &e))
				fail_msg("round %d, piece %u: %s", round, i, e.text);
			assert_int_equal(nbd_flight_chunk(&f, &first, true, &e), -EPROTO);
			assert_int_equal(f.received, (i + 1) * LENGTH);
		}
		assert_int_equal(f.nranges, 1);
		assert_int_equal(nbd_flight_finish(&f, &error, &e), 0);
		assert_int_equal(error, 0);
	}
}

static void test_too_scattered(void **state)
{
	struct error e = ERROR_INIT;
	struct nbd_flight f;
	struct nbd_reply r;

	(void)state;
	nbd_flight_init(&f, NBD_CMD_READ, 0, 1000);
	for (unsigned int i = 0; i < NBD_MAX_RANGES; i++) {
		r = data_chunk(i * 2, 1);
		assert_int_equal(nbd_flight_chunk(&f, &r, true, &e), 0);
	}
	r = data_chunk(500, 1);
	assert_int_equal(nbd_flight_chunk(&f, &r, true, &e), -EPROTO);
	assert_non_null(strstr(e.text, "scattered over more than 16 pieces"));
	/* One that fills a gap is fine. */
	r = data_chunk(1, 1);
	assert_int_equal(nbd_flight_chunk(&f, &r, true, &e), 0);
	r = data_chunk(500, 1);
	assert_int_equal(nbd_flight_chunk(&f, &r, true, &e), 0);
}

/* Offsets at the end of the world: sums must not wrap. */
static void test_extremes(void **state)
{
	static const struct {
		uint64_t offset;
		uint32_t length;
		int ret;
	} rows[] = {
		{ INT64_MAX - 4095, 4096, 0 },
		{ INT64_MAX - 4095, 4097, -EPROTO },
		{ INT64_MAX, 1, 0 },
		{ INT64_MAX, UINT32_MAX, -EPROTO },
		{ UINT64_MAX, 1, -EPROTO },
		{ UINT64_MAX, UINT32_MAX, -EPROTO },
		{ 0, 1, -EPROTO },
		{ INT64_MAX - 4096, 1, -EPROTO },
	};
	struct error e = ERROR_INIT;
	struct nbd_flight f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct nbd_reply r = data_chunk(rows[i].offset, rows[i].length);

		nbd_flight_init(&f, NBD_CMD_READ, INT64_MAX - 4095, 4096);
		if (nbd_flight_chunk(&f, &r, true, &e) != rows[i].ret)
			fail_msg("row %zu", i);
	}
}

static void test_max_payload(void **state)
{
	static const struct {
		uint32_t min, max, want;
	} rows[] = {
		{ 1, UINT32_MAX, 32 << 20 },
		{ 512, 32 << 20, 32 << 20 },
		{ 1, 65536, 65536 },
		{ 1, 1000, 512 },
		{ 1, 511, 511 },
		{ 4096, 12288, 12288 },
		{ 4096, 4096, 4096 },
		{ 1, 1, 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct nbd_export x = { .min_block = rows[i].min, .max_block = rows[i].max };

		assert_int_equal(nbd_conn_max_payload(&x), rows[i].want);
	}
}

/* --- handshake --- */

#define REPLY 0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9

static const uint8_t server_says[] = {
	'N', 'B', 'D',	 'M',	'A', 'G', 'I', 'C', 'I', 'H', 'A',   'V', 'E', 'O', 'P', 'T',
	0,   3,	  REPLY, 0,	0,   0,	  8,   0,   0,	 0,   1,     0,	  0,   0,   0,	 REPLY,
	0,   0,	  0,	 7,	0,   0,	  0,   3,   0,	 0,   0,     14,  0,   3,   0,	 0,
	2,   0,	  0,	 0,	16,  0,	  0,   1,   0,	 0,   REPLY, 0,	  0,   0,   7,	 0,
	0,   0,	  3,	 0,	0,   0,	  12,  0,   0,	 0,   0,     0,	  0,   0,   16,	 0,
	0,   1,	  5,	 REPLY, 0,   0,	  0,   7,   0,	 0,   0,     1,	  0,   0,   0,	 0,
};

static const uint8_t client_says[] = {
	0, 0, 0, 3,  'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 8,
	0, 0, 0, 0,  'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 7,
	0, 0, 0, 12, 0,	  0,   0,   4,	 'd', 'i', 's', 'k', 0, 1, 0, 3,
};

static void test_handshake(void **state)
{
	static struct nbd_handshake h;
	struct error e = ERROR_INIT;

	(void)state;
	/* In pieces of every size the same comes out. */
	for (size_t piece = 1; piece <= sizeof(server_says); piece++) {
		enum nbd_handshake_result result = NBD_HANDSHAKE_MORE;
		uint8_t said[sizeof(client_says)];
		size_t nsaid = 0, at = 0, used;

		assert_int_equal(nbd_handshake_init(&h, "disk", &e), 0);
		while (result != NBD_HANDSHAKE_DONE) {
			size_t n = min(piece, sizeof(server_says) - at);

			assert_true(n > 0);
			result = nbd_handshake_feed(&h, server_says + at, n, &used, &e);
			assert_int_not_equal(result, NBD_HANDSHAKE_FAILED);
			at += used;
			assert_true(nsaid + h.out_len <= sizeof(said));
			memcpy(said + nsaid, h.out, h.out_len);
			nsaid += h.out_len;
		}
		assert_int_equal(at, sizeof(server_says));
		assert_int_equal(nsaid, sizeof(client_says));
		assert_memory_equal(said, client_says, sizeof(client_says));
		assert_int_equal(h.export.size, 1 << 20);
		assert_int_equal(h.export.flags, 0x105);
		assert_true(h.export.structured);
		assert_true(h.export.block_sizes_given);
		assert_int_equal(h.export.min_block, 512);
		assert_int_equal(h.export.preferred_block, 4096);
		assert_int_equal(h.export.max_block, 65536);
	}
}

static void test_long_name(void **state)
{
	static struct nbd_handshake h;
	static char name[NBD_MAX_STRING + 2];
	struct error e = ERROR_INIT;
	size_t used;

	(void)state;
	memset(name, 'n', NBD_MAX_STRING);
	assert_int_equal(nbd_handshake_init(&h, name, &e), 0);
	assert_int_equal(nbd_handshake_feed(&h, server_says, sizeof(server_says), &used, &e),
			 NBD_HANDSHAKE_SEND);
	assert_int_equal(nbd_handshake_feed(&h, server_says + 18, 20, &used, &e),
			 NBD_HANDSHAKE_SEND);
	assert_int_equal(h.out_len, 16 + 4 + NBD_MAX_STRING + 4);
	name[NBD_MAX_STRING] = 'n';
	assert_int_equal(nbd_handshake_init(&h, name, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request),	  cmocka_unit_test(test_headers),
		cmocka_unit_test(test_scattered), cmocka_unit_test(test_too_scattered),
		cmocka_unit_test(test_extremes),  cmocka_unit_test(test_max_payload),
		cmocka_unit_test(test_handshake), cmocka_unit_test(test_long_name),
	};

	return cmocka_run_group_tests_name("nbd_proto", tests, NULL, NULL);
}
