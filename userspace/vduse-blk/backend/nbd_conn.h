/* SPDX-License-Identifier: MIT */
/*
 * One NBD connection on one loop: handshake, then requests and replies.
 *
 * Everything here is called on the loop's thread.
 */
#ifndef BACKEND_NBD_CONN_H
#define BACKEND_NBD_CONN_H

#include "backend/backend.h"
#include "backend/nbd_proto.h"
#include "loop/stream.h"

struct nbd_conn;

struct nbd_conn_params {
	const char *export_name; /* not copied */
	unsigned int depth;	 /* requests on the wire at a time */
	unsigned int timeout_ms; /* connect and handshake, each address */
	/* A request is complete; never called from inside nbd_conn_submit(). */
	void (*finished)(void *owner, struct backend_request *req, int error);
	void *owner;
};

/**
 * nbd_conn_open() - connect and negotiate; runs the loop meanwhile
 * @loop: not inside loop_run()
 * @addrs: tried in order until one can be connected to
 * @naddrs: at least 1
 * @params: copied
 * @ret_conn: written only on success
 * @e: error text
 *
 * Return: 0 or -errno.
 */
int nbd_conn_open(struct loop *loop, const struct stream_addr *addrs, unsigned int naddrs,
		  const struct nbd_conn_params *params, struct nbd_conn **ret_conn,
		  struct error *e);

/**
 * nbd_conn_adopt() - go on with a socket on which another loop has negotiated
 * @loop: the loop that it moves to
 * @fd: socket; owned by the connection from now on, also on failure
 * @export: what was negotiated
 * @params: copied
 * @ret_conn: written only on success
 * @e: error text
 *
 * Return: 0 or -errno.
 */
int nbd_conn_adopt(struct loop *loop, int fd, const struct nbd_export *export,
		   const struct nbd_conn_params *params, struct nbd_conn **ret_conn,
		   struct error *e);

/**
 * nbd_conn_detach() - free the connection but keep its socket
 * @conn: without requests; not inside loop_run(), the loop is run meanwhile
 *
 * Return: socket for nbd_conn_adopt(), or -ECONNRESET if the connection has died.
 */
int nbd_conn_detach(struct nbd_conn *conn);

/**
 * nbd_conn_close() - take leave of the server and free the connection
 * @conn: without requests; may be NULL; not inside loop_run(), the loop is run meanwhile
 */
void nbd_conn_close(struct nbd_conn *conn);

/**
 * nbd_conn_export() - what was negotiated
 * @conn: open connection
 *
 * Return: valid as long as @conn.
 */
const struct nbd_export *nbd_conn_export(const struct nbd_conn *conn);

/**
 * nbd_conn_stream_stats() - counters of the byte stream below
 * @conn: open connection
 *
 * Return: valid as long as @conn.
 */
const struct stream_stats *nbd_conn_stream_stats(const struct nbd_conn *conn);

/**
 * nbd_conn_max_payload() - largest read or write that is sent as one request
 * @export: what was negotiated
 *
 * Return: bytes.
 */
uint32_t nbd_conn_max_payload(const struct nbd_export *export);

/* Likewise for trim and write-zeroes, which carry no payload. */
#define NBD_MAX_RANGE_BYTES (1u << 30)

/**
 * nbd_conn_submit() - send a request
 * @conn: connection, dead or alive
 * @req: see backend.h; comes back through params.finished()
 */
void nbd_conn_submit(struct nbd_conn *conn, struct backend_request *req);

#endif
