/* SPDX-License-Identifier: MIT */
/*
 * What the virtio-blk core sees of storage.
 *
 *	main thread:	backend_open()
 *	queue threads:	queue_create(0), queue_create(1) ... on their own loops
 *			submit() ... done()
 *			queue_destroy(n) ... queue_destroy(0)
 *	main thread:	backend_close()
 *
 * Queue 0 is created before the others and destroyed after them: a backend
 * with a single connection lets queue 0's thread own it, and the loop of queue
 * 0 must be running while another queue has requests in flight or is being
 * created or destroyed.
 *
 * Backends trust their caller: offsets and lengths are inside the device and
 * aligned to the block size, writes come only if the device is writable, and
 * commands only if their flag is offered. They do not trust what is behind
 * them.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/uri.h"
#include "loop/loop.h"

struct backend;
struct backend_queue;
struct backend_request;

#define BACKEND_F_READ_ONLY (1u << 0) /* writes are refused */
#define BACKEND_F_FLUSH	    (1u << 1) /* has a volatile cache, BACKEND_FLUSH empties it */
#define BACKEND_F_FUA \
	(1u << 2) /* BACKEND_REQ_FUA costs no flush; without it the backend flushes by itself */
#define BACKEND_F_DISCARD      (1u << 3)
#define BACKEND_F_WRITE_ZEROES (1u << 4)
#define BACKEND_F_MULTI_CONN   (1u << 5) /* one connection a queue */
#define BACKEND_F_ROTATIONAL   (1u << 6)

/* Logical blocks may not be larger than this: Linux takes no more than a page. */
#define BACKEND_MAX_BLOCK_SIZE 4096

struct backend_info {
	uint64_t size;		  /* bytes; a multiple of block_size */
	uint32_t block_size;	  /* logical block: 512...4096, power of two */
	uint32_t min_block;	  /* what the storage itself needs, <= block_size */
	uint32_t preferred_block; /* optimal I/O size; power of two >= block_size */
	uint32_t max_block; /* largest payload in one piece; larger requests are split by the backend */
	uint32_t max_discard;	   /* bytes of one discard that need no splitting */
	uint32_t max_write_zeroes; /* likewise */
	uint32_t flags;		   /* BACKEND_F_* */
	unsigned int connections;  /* 0: local */
	char description[160]; /* for log and status: where the data is and what was negotiated */
};

struct backend_options {
	bool read_only;		  /* never write, whatever the storage allows */
	uint32_t block_size;	  /* logical block size wanted; 0: the smallest that is possible */
	unsigned int queues;	  /* how many will be created; 0: 1 */
	unsigned int queue_depth; /* requests in flight per queue that need not wait; 0: 128 */
	unsigned int connect_timeout_ms; /* connect and handshake; 0: 10 s */
	bool single_connection;		 /* share one even if the server allows several */
};

enum backend_op {
	BACKEND_READ,
	BACKEND_WRITE,
	BACKEND_FLUSH,	 /* covers every write whose done() came before submit() */
	BACKEND_DISCARD, /* content is undefined afterwards */
	BACKEND_WRITE_ZEROES,
	_BACKEND_OP_MAX,
	_BACKEND_OP_INVALID = -1,
};

#define BACKEND_REQ_FUA \
	(1u << 0) /* on stable storage before done(); writes, write-zeroes, discard */
#define BACKEND_REQ_MAY_UNMAP (1u << 1) /* write-zeroes: a hole will do */

/*
 * One request. The submitter fills in the first part and keeps the struct, iov
 * and the data memory valid and unchanged until done().
 */
struct backend_request {
	enum backend_op op;
	uint32_t flags;		 /* BACKEND_REQ_* */
	uint64_t offset;	 /* bytes */
	uint64_t length;	 /* bytes, > 0 except for BACKEND_FLUSH */
	const struct iovec *iov; /* READ, WRITE: describes at least @length bytes */
	unsigned int niov;
	/*
	 * Exactly once, on the thread and from the loop of the queue that the
	 * request was submitted to; never before submit() has returned. The
	 * backend does not touch the request any more: it may be submitted
	 * again from here. error: 0, or -errno (-EIO, -ENOSPC, -EPERM ...).
	 */
	void (*done)(struct backend_request *req, int error);

	/* Private to the backend between submit() and done(). */
	struct backend_request *next;
	struct backend_queue *queue;
	struct loop_msg msg;
	uint64_t progress;
	unsigned int pending;
	unsigned int stage;
	int error;
};

struct backend_ops {
	const char *scheme;
	/* The first of the calls above; @ret_backend is written only on success. */
	int (*open)(const struct uri *uri, const struct backend_options *options,
		    struct backend **ret_backend, struct error *e);
	void (*close)(struct backend *backend);
	int (*queue_create)(struct backend *backend, struct loop *loop, unsigned int index,
			    struct backend_queue **ret_queue, struct error *e);
	void (*queue_destroy)(struct backend_queue *queue);
	void (*submit)(struct backend_queue *queue, struct backend_request *req);
};

/* First member of every backend's own structure. */
struct backend {
	const struct backend_ops *ops;
	struct backend_info info; /* constant after open() */
};

/* First member of every backend's own queue structure. */
struct backend_queue {
	struct backend *backend;
	struct loop *loop;
	unsigned int index;
};

/**
 * backend_open() - reach the storage that a URI names
 * @uri_text: nbd://host[:port]/export, nbd+unix:///export?socket=PATH,
 *	      file:///path, null:SIZE
 * @options: copied
 * @ret_backend: written only on success
 * @e: error text, one line, complete
 *
 * Synchronous: connects, negotiates, validates size and block sizes. Before
 * the first loop runs or on a thread of its own; does not return before
 * options->connect_timeout_ms if the server is silent (name resolution comes on top).
 *
 * Return: 0 or -errno: -EINVAL (URI, size, block size), -ECONNREFUSED,
 * -ENOENT (unknown export, no such file), -EROFS (read-only storage without
 * options->read_only), -EPROTO (server broke the protocol), -ECONNRESET
 * (server closed), -ETIMEDOUT ...
 */
int backend_open(const char *uri_text, const struct backend_options *options,
		 struct backend **ret_backend, struct error *e);

/**
 * backend_close() - all queues have been destroyed
 * @backend: may be NULL
 */
void backend_close(struct backend *backend);

/**
 * backend_queue_create() - make queue @index usable on the calling thread's loop
 * @backend: open backend
 * @loop: the calling thread's loop, not inside loop_run(); it may be run meanwhile
 * @index: 0...options.queues - 1
 * @ret_queue: written only on success
 * @e: error text
 *
 * Return: 0 or -errno.
 */
int backend_queue_create(struct backend *backend, struct loop *loop, unsigned int index,
			 struct backend_queue **ret_queue, struct error *e);

/**
 * backend_queue_destroy() - give the queue's resources back
 * @queue: may be NULL; without requests in flight; on its thread, not inside
 *	   loop_run(); the loop may be run meanwhile
 */
void backend_queue_destroy(struct backend_queue *queue);

/**
 * backend_submit() - start a request
 * @queue: queue of the calling thread
 * @req: see struct backend_request
 *
 * Never fails and never waits: errors arrive through done(). What is submitted
 * in one batch of completions goes out together at its end.
 */
static inline void backend_submit(struct backend_queue *queue, struct backend_request *req)
{
	queue->backend->ops->submit(queue, req);
}

/**
 * backend_op_name() - for logs
 * @op: operation
 *
 * Return: static text.
 */
const char *backend_op_name(enum backend_op op);

extern const struct backend_ops null_backend_ops;
extern const struct backend_ops file_backend_ops;
extern const struct backend_ops nbd_backend_ops;
extern const struct backend_ops nbd_unix_backend_ops;

#endif
