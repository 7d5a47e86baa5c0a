/* SPDX-License-Identifier: MIT */
/*
 * One NBD connection at a time on one loop: handshake, then requests and
 * replies, then the end. The object outlives its connections, so that making a
 * new one allocates nothing.
 *
 * Everything here is called on the loop's thread. Nothing waits.
 */
#ifndef BACKEND_NBD_CONN_H
#define BACKEND_NBD_CONN_H

#include "backend/backend.h"
#include "backend/nbd_proto.h"
#include "loop/stream.h"

struct nbd_conn;

/* How a connection ended. */
struct nbd_conn_end {
	bool wanted;		/* by nbd_conn_close() */
	bool opened;		/* requests could be submitted */
	enum backend_loss loss; /* unless wanted */
	struct error error;	/* likewise; errnum and one line */
	/* The peer has not closed; the socket then belongs to the callee. Or -1. */
	int fd;
	/*
	 * What was not answered, linked by next, in the order of submission.
	 * req->progress is not 0 if at least a part was on its way.
	 */
	struct backend_request *unanswered;
};

struct nbd_conn_ops {
	/* The server has accepted the connection; the handshake begins. May be NULL. */
	void (*connected)(void *owner);
	/* The handshake is over. Requests may be submitted from here on. */
	void (*opened)(void *owner);
	/* A request is answered; never called from inside nbd_conn_submit(). */
	void (*finished)(void *owner, struct backend_request *req, int error);
	/*
	 * The end, once for each connect or adopt. Nothing refers to any
	 * request's memory any more; a new connection may be begun from here.
	 */
	void (*ended)(void *owner, const struct nbd_conn_end *end);
};

struct nbd_conn_params {
	const char *export_name; /* not copied */
	unsigned int depth;	 /* requests on the wire at a time */
	bool one_of_several;	 /* without the export's consent to that it is not opened */
	const struct nbd_conn_ops *ops;
	void *owner;
	struct stream_stats *stats; /* where to count; NULL: nowhere */
};

/**
 * nbd_conn_create() - allocate everything that connections need
 * @loop: the calling thread's
 * @params: copied
 * @ret_conn: written only on success
 * @e: error text
 *
 * Return: 0 or -errno.
 */
int nbd_conn_create(struct loop *loop, const struct nbd_conn_params *params,
		    struct nbd_conn **ret_conn, struct error *e);

/**
 * nbd_conn_destroy() - free it
 * @conn: without a connection (never begun, or ended); may be NULL
 */
void nbd_conn_destroy(struct nbd_conn *conn);

/**
 * nbd_conn_connect() - begin a connection; opened() or ended() follows
 * @conn: without a connection
 * @addr: of the server
 * @e: error text
 *
 * Return: 0, or -errno if there is no socket to be had (then neither follows).
 */
int nbd_conn_connect(struct nbd_conn *conn, const struct stream_addr *addr, struct error *e);

/**
 * nbd_conn_adopt() - go on with a socket on which the handshake is over; opened() is not called
 * @conn: without a connection
 * @fd: owned from now on
 * @addr: of the server, for messages
 * @export: what was negotiated
 */
void nbd_conn_adopt(struct nbd_conn *conn, int fd, const struct stream_addr *addr,
		    const struct nbd_export *export);

/**
 * nbd_conn_cut() - end it without the server's consent; ended() follows
 * @conn: on one without a connection, or with one that is ending, ignored; what an
 *	  ended stream says of the peer is worth more than why we would have cut it
 * @loss: for the statistics
 * @error: 0 or positive errno for the message
 *
 * Nothing more is sent, not even the rest of a request of which a part was.
 */
void nbd_conn_cut(struct nbd_conn *conn, enum backend_loss loss, int error);

/**
 * nbd_conn_close() - take leave in due form (at most a second); ended() follows
 * @conn: without requests; during a handshake it is cut
 */
void nbd_conn_close(struct nbd_conn *conn);

/**
 * nbd_conn_release() - end it, but keep the socket for nbd_conn_adopt(); ended() follows
 * @conn: open, without requests
 *
 * The socket is end.fd.
 */
void nbd_conn_release(struct nbd_conn *conn);

/**
 * nbd_conn_submit() - send a request
 * @conn: open
 * @req: see backend.h; comes back through finished() or ended()
 */
void nbd_conn_submit(struct nbd_conn *conn, struct backend_request *req);

/**
 * nbd_conn_oldest() - what has waited longest for its answer
 * @conn: any
 *
 * Return: NULL if nothing is submitted. Its sent_ns says since when; 0: not sent yet.
 */
const struct backend_request *nbd_conn_oldest(const struct nbd_conn *conn);

/**
 * nbd_conn_export() - what was negotiated
 * @conn: open
 *
 * Return: valid as long as the connection.
 */
const struct nbd_export *nbd_conn_export(const struct nbd_conn *conn);

/**
 * nbd_conn_set_keepalive() - when to give up a silent peer; see stream_set_keepalive()
 * @conn: any
 * @ms: 0: never
 */
void nbd_conn_set_keepalive(struct nbd_conn *conn, unsigned int ms);

/**
 * nbd_conn_memory() - bytes that it has allocated
 * @conn: any
 *
 * Return: bytes, constant.
 */
size_t nbd_conn_memory(const struct nbd_conn *conn);

/**
 * nbd_conn_max_payload() - largest read or write that is sent as one request
 * @export: what was negotiated
 *
 * Return: bytes.
 */
uint32_t nbd_conn_max_payload(const struct nbd_export *export);

/* Likewise for trim and write-zeroes, which carry no payload. */
#define NBD_MAX_RANGE_BYTES (1u << 30)

#endif
