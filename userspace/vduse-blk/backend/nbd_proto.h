/* SPDX-License-Identifier: MIT */
/*
 * NBD protocol, client side: bytes in, decisions out. No I/O, no allocation.
 *
 * Everything that a server says passes one of the three checkers here, and
 * nowhere else is a length, offset, flag or cookie from the wire trusted:
 *
 *	nbd_handshake_feed()	fixed newstyle negotiation
 *	nbd_reply_decode()	one reply or chunk header in itself
 *	nbd_flight_chunk()	the same against the request that it answers
 */
#ifndef BACKEND_NBD_PROTO_H
#define BACKEND_NBD_PROTO_H

#include "base/error.h"

#define NBD_DEFAULT_PORT "10809"
#define NBD_MAX_STRING	 4096

/* Transmission flags */
#define NBD_FLAG_HAS_FLAGS	   (1u << 0)
#define NBD_FLAG_READ_ONLY	   (1u << 1)
#define NBD_FLAG_SEND_FLUSH	   (1u << 2)
#define NBD_FLAG_SEND_FUA	   (1u << 3)
#define NBD_FLAG_ROTATIONAL	   (1u << 4)
#define NBD_FLAG_SEND_TRIM	   (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES (1u << 6)
#define NBD_FLAG_CAN_MULTI_CONN	   (1u << 8)

/* Requests */
#define NBD_CMD_READ	     0
#define NBD_CMD_WRITE	     1
#define NBD_CMD_DISC	     2
#define NBD_CMD_FLUSH	     3
#define NBD_CMD_TRIM	     4
#define NBD_CMD_WRITE_ZEROES 6

#define NBD_CMD_FLAG_FUA     (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE (1u << 1)

/* What a connection has agreed on. */
struct nbd_export {
	uint64_t size;
	uint16_t flags;		/* NBD_FLAG_* */
	bool structured;	/* reads are answered by structured replies */
	bool block_sizes_given; /* else the three are the protocol's defaults */
	uint32_t min_block;
	uint32_t preferred_block;
	uint32_t max_block; /* largest payload */
};

/* --- handshake --- */

enum nbd_handshake_state {
	NBD_HS_GREETING,
	NBD_HS_REPLY_HEADER,
	NBD_HS_REPLY_PAYLOAD,
	NBD_HS_EXPORT_REPLY, /* answer to NBD_OPT_EXPORT_NAME */
	NBD_HS_DONE,
	NBD_HS_FAILED,
};

enum nbd_handshake_result {
	NBD_HANDSHAKE_MORE,   /* wants more bytes */
	NBD_HANDSHAKE_SEND,   /* out[0...out_len) has to be sent, then go on */
	NBD_HANDSHAKE_DONE,   /* the transmission phase begins with the next byte */
	NBD_HANDSHAKE_FAILED, /* close; if out_len is not 0 send that first */
};

struct nbd_handshake {
	enum nbd_handshake_state state; /* private */
	const char *export_name;
	struct nbd_export export; /* valid when DONE */
	bool no_zeroes;		  /* private */
	bool have_export_info;	  /* private */
	uint32_t option;	  /* private: the one that has not been answered finally */
	uint32_t reply_type;	  /* private */
	uint32_t need;		  /* private: bytes of the element that is being collected */
	uint32_t have;		  /* private */
	size_t out_len;
	uint8_t out[NBD_MAX_STRING + 64];
	uint8_t in[NBD_MAX_STRING + 256]; /* private */
};

/**
 * nbd_handshake_init() - a connection has been made
 * @h: to initialise
 * @export_name: UTF-8, "" for the default export; kept, not copied
 * @e: error text
 *
 * Return: 0 or -EINVAL (name too long).
 */
int nbd_handshake_init(struct nbd_handshake *h, const char *export_name, struct error *e);

/**
 * nbd_handshake_feed() - bytes from the server
 * @h: not yet DONE or FAILED
 * @p: bytes
 * @n: how many
 * @ret_used: how many were consumed
 * @e: error text, set when the answer is NBD_HANDSHAKE_FAILED. e->errnum:
 *     EPROTO (the server broke the protocol), ENOENT (unknown export), EACCES,
 *     ENOTSUP (TLS or an old protocol), ESHUTDOWN, EINVAL
 *
 * Call it again with the rest after SEND.
 *
 * Return: what to do next.
 */
enum nbd_handshake_result nbd_handshake_feed(struct nbd_handshake *h, const uint8_t *p, size_t n,
					     size_t *ret_used, struct error *e);

/**
 * nbd_handshake_where() - what the client was waiting for
 * @h: handshake that was cut short
 *
 * Return: static text, as in "the server closed the connection while ...".
 */
const char *nbd_handshake_where(const struct nbd_handshake *h);

/* --- requests --- */

#define NBD_REQUEST_SIZE 28

/**
 * nbd_request_encode() - request header
 * @out: receives it
 * @flags: NBD_CMD_FLAG_*
 * @type: NBD_CMD_*
 * @cookie: comes back in the reply
 * @offset: bytes
 * @length: bytes
 */
void nbd_request_encode(uint8_t out[NBD_REQUEST_SIZE], uint16_t flags, uint16_t type,
			uint64_t cookie, uint64_t offset, uint32_t length);

/* --- replies --- */

enum nbd_reply_kind {
	NBD_REPLY_SIMPLE, /* followed by the data if the request was a read and error is 0 */
	NBD_REPLY_NONE,
	NBD_REPLY_DATA,		/* followed by @length bytes for @offset */
	NBD_REPLY_HOLE,		/* @length bytes at @offset are zero */
	NBD_REPLY_ERROR,	/* followed by @tail bytes */
	NBD_REPLY_ERROR_OFFSET, /* likewise; the last 8 of them are the offset */
};

/* Longest header with its fixed fields: so many bytes decode anything. */
#define NBD_REPLY_HEADER_MAX 32
/* Longest rest of an error chunk that is accepted. */
#define NBD_ERROR_TAIL_MAX (NBD_MAX_STRING + 8)

struct nbd_reply {
	enum nbd_reply_kind kind;
	bool done; /* last chunk of the answer */
	uint64_t cookie;
	int error; /* positive errno, 0: none */
	uint64_t offset;
	uint32_t length;
	uint32_t tail;
	uint32_t message; /* bytes of @tail that are text */
};

/**
 * nbd_reply_decode() - header of a reply or chunk
 * @p: bytes
 * @n: how many
 * @structured: structured replies were negotiated
 * @ret_reply: written only if the header is complete and valid
 * @e: error text for a violation
 *
 * Return: bytes consumed; 0 if more are needed (never with
 * NBD_REPLY_HEADER_MAX or more); on a violation -EBADMSG (no reply begins like
 * this) or -EPROTO.
 */
int nbd_reply_decode(const uint8_t *p, size_t n, bool structured, struct nbd_reply *ret_reply,
		     struct error *e);

/* Pieces of a read that may be scattered at a time. */
#define NBD_MAX_RANGES 16

/* A request between its encoding and the end of its answer. */
struct nbd_flight {
	uint16_t type;
	bool any_chunk; /* a chunk of a structured reply has come: no simple reply may follow */
	int error;	/* positive errno, the first that was reported */
	uint64_t offset;
	uint32_t length;
	uint32_t received; /* bytes that data chunks and holes covered */
	unsigned int nranges;
	struct {
		uint64_t start;
		uint64_t end;
	} ranges[NBD_MAX_RANGES]; /* the same, sorted, merged */
};

/**
 * nbd_flight_init() - a request is about to be sent
 * @f: to initialise
 * @type: NBD_CMD_*
 * @offset: bytes
 * @length: bytes
 */
void nbd_flight_init(struct nbd_flight *f, uint16_t type, uint64_t offset, uint32_t length);

/**
 * nbd_flight_chunk() - may this reply answer that request?
 * @f: the request; accounts for the chunk
 * @r: decoded header; for the simple reply to a successful read, @r->offset
 *     and @r->length are filled in
 * @structured: structured replies were negotiated
 * @e: error text for a violation
 *
 * Return: 0, or -EPROTO on a violation.
 */
int nbd_flight_chunk(struct nbd_flight *f, struct nbd_reply *r, bool structured, struct error *e);

/**
 * nbd_flight_error_tail() - the rest of an error chunk has arrived
 * @f: the request
 * @r: decoded header of the chunk
 * @tail: its @r->tail bytes
 * @e: error text for a violation
 *
 * Return: 0, or -EPROTO on a violation.
 */
int nbd_flight_error_tail(struct nbd_flight *f, const struct nbd_reply *r, const uint8_t *tail,
			  struct error *e);

/**
 * nbd_flight_finish() - the answer is complete
 * @f: the request
 * @ret_error: its result, 0 or -errno
 * @e: error text for a violation
 *
 * Return: 0, or -EPROTO if the server claims success without having sent everything.
 */
int nbd_flight_finish(const struct nbd_flight *f, int *ret_error, struct error *e);

#endif
