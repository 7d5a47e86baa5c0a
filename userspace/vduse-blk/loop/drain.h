/* SPDX-License-Identifier: MIT */
/*
 * The last words of a connection that nobody listens to any more: half-close
 * it, throw away what the peer still says, and learn when it has closed too.
 *
 * All calls on the loop's thread.
 */
#ifndef LOOP_DRAIN_H
#define LOOP_DRAIN_H

#include "loop/loop.h"

struct drain {
	/* The socket is closed. peer_closed: the peer did it first; may be started again here. */
	void (*done)(struct drain *drain, bool peer_closed);
	struct loop *loop; /* private, as all below */
	struct loop_op op;
	int fd;
	bool busy;
	bool reset;
	uint8_t scrap[4096];
};

/**
 * drain_start() - say goodbye; done() follows
 * @drain: with done() set, not busy
 * @loop: the calling thread's
 * @fd: connected stream socket without operations in flight; owned from now on
 *
 * What the kernel has taken from us before is still sent, nothing else.
 */
void drain_start(struct drain *drain, struct loop *loop, int fd);

/**
 * drain_reset() - wait no longer
 * @drain: may be not busy
 *
 * The connection is reset: what has not left yet never will. done() follows,
 * never before this returns.
 */
void drain_reset(struct drain *drain);

/**
 * drain_reset_fd() - reset a connection at once
 * @fd: socket without operations in flight; closed
 */
void drain_reset_fd(int fd);

#endif
