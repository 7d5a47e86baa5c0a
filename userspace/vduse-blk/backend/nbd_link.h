/* SPDX-License-Identifier: MIT */
/*
 * One queue's relation to its server, over any number of connections: requests
 * go in, and come out answered, whatever happens to connections in between.
 *
 * Everything here is called on the link's loop.
 */
#ifndef BACKEND_NBD_LINK_H
#define BACKEND_NBD_LINK_H

#include "backend/nbd_session.h"

struct nbd_link;

struct nbd_link_params {
	struct nbd_session *session;
	unsigned int index; /* in the session */
	unsigned int depth; /* requests on the wire at a time */
	/* A request is complete; never called from inside nbd_link_submit(). */
	void (*finished)(void *owner, struct backend_request *req, int error);
	void *owner;
};

/**
 * nbd_link_open() - get a connection; runs the loop meanwhile
 * @loop: the calling thread's, not inside loop_run()
 * @params: copied
 * @fd: socket on which the handshake is over, or -1 to connect; owned from now
 *	on, also on failure
 * @ret_link: written only on success
 * @e: error text
 *
 * Later losses are dealt with, but a server that is not there now is an error, unless
 * the session is patient: then the link is there, and its connection is to come.
 *
 * Return: 0 or -errno.
 */
int nbd_link_open(struct loop *loop, const struct nbd_link_params *params, int fd,
		  struct nbd_link **ret_link, struct error *e);

/**
 * nbd_link_close() - take leave of the server, whatever state it is in, and free
 * @link: without requests; may be NULL; not inside loop_run(), the loop is run
 *	  meanwhile, for about a second at most
 */
void nbd_link_close(struct nbd_link *link);

/**
 * nbd_link_submit() - carry out a request
 * @link: open
 * @req: see backend.h; comes back through params.finished()
 */
void nbd_link_submit(struct nbd_link *link, struct backend_request *req);

#endif
