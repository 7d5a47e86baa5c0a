/* SPDX-License-Identifier: MIT */
/*
 * What the virtio-blk core sees of storage.
 *
 *	main thread:	backend_open(), backend_use_journal()
 *	queue threads:	queue_create(0), queue_create(1) ... on their own loops
 *			submit() ... done()
 *			queue_destroy(n) ... queue_destroy(0)
 *	main thread:	set_tunables(), fail(), refresh(), link_stats() at any time;
 *			events.changed(), events.refreshed() on its loop
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

/*
 * As found at the beginning, and later as found again: written by the main
 * thread only, right before events.changed() tells of it.
 */
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
	bool assumed; /* the storage was not reached yet: size, flags are those of options.assumed */
};

/* A limit that never comes. */
#define BACKEND_NEVER UINT32_MAX

/*
 * What may be changed while the disk is in use. Milliseconds; where the comment
 * names a default, 0 stands for it, and BACKEND_NEVER switches the limit off.
 */
struct backend_tunables {
	uint32_t connect_ms;   /* for a connection, each address; default 10 s */
	uint32_t handshake_ms; /* then, for the negotiation; default 10 s */
	/*
	 * A request that has been on the wire for so long means that the server
	 * is lost: the connection is cut, a new one is made, and the request is
	 * sent again. Default 30 s; doubled, up to 16 times that, each time it
	 * happens without an answer to anything in between.
	 */
	uint32_t request_ms;
	uint32_t keepalive_ms; /* silence of the peer's kernel that ends a connection; default 15 s */
	uint32_t idle_ms; /* a connection without requests is closed until the next; 0: never */
	/* A request that has waited for so long fails with -EIO; 0: it waits without limit. */
	uint32_t io_timeout_ms;
	uint32_t reconnect_min_ms; /* pause after the first failed attempt; default 100 ms */
	uint32_t reconnect_max_ms; /* longest pause, each twice the last; default 5 s */
	/* How long a write of a connection that has ended may still arrive; default 30 s. */
	uint32_t fence_ms;
	/*
	 * The same, from when the peer has closed that connection; default 2 s.
	 * BACKEND_NEVER: a close is believed to be the end of its writes.
	 */
	uint32_t fence_closed_ms;
};

enum backend_change {
	BACKEND_LOST,	  /* a connection is gone and being made again */
	BACKEND_RESTORED, /* every connection is back */
	BACKEND_GROWN,
	BACKEND_SHRUNK,	       /* requests behind the new end fail with -EIO */
	BACKEND_FLAGS_CHANGED, /* requests that the storage offers no longer fail with -EIO */
	_BACKEND_CHANGE_MAX,
};

/* Who hears of changes: all zero for nobody. */
struct backend_events {
	struct loop *main; /* loop of the main thread; lives until backend_close() has returned */
	/* On that loop. What is now is also in the backend's info. */
	void (*changed)(void *opaque, const struct backend_info *now, enum backend_change what);
	/*
	 * The end of backend_refresh(), likewise, after changed() if there was something
	 * to tell: 0, or -errno when the storage could not be asked. May be called from
	 * inside of it. May be NULL.
	 */
	void (*refreshed)(void *opaque, int error);
	void *opaque;
};

/* Bytes of acknowledged, unflushed writes that are kept for a server that loses its cache. */
#define BACKEND_REPLAY_LOG_DEFAULT (32u << 20)

/* What a driver was promised by a predecessor of this process. */
struct backend_assumed {
	uint64_t size;
	uint32_t block_size;
	uint32_t flags;	     /* BACKEND_F_* */
	const void *journal; /* see backend_use_journal(); may be NULL */
	size_t journal_bytes;
};

struct backend_options {
	bool read_only;		  /* never write, whatever the storage allows */
	uint32_t block_size;	  /* logical block size wanted; 0: the smallest that is possible */
	unsigned int queues;	  /* how many will be created; 0: 1 */
	unsigned int queue_depth; /* requests in flight per queue that need not wait; 0: 128 */
	unsigned int connect_timeout_ms; /* connect and handshake; 0: 10 s */
	bool single_connection;		 /* share one even if the server allows several */
	struct backend_tunables tunables; /* zeroed: the defaults */
	struct backend_events events;
	uint32_t replay_log; /* bytes, all queues together; 0: none, a loss fails the next flush */
	/*
	 * Go on with this when a server cannot be reached at the beginning: requests wait
	 * for it then, and what it offers is compared when it is there, as after any loss.
	 * Not kept. NULL: that is an error.
	 */
	const struct backend_assumed *assumed;
	/*
	 * What backend_descriptor() said in a predecessor, which has it open still; stays
	 * the caller's. NULL: none; -1 in it: the storage has none.
	 */
	const int *descriptor;
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
/* The same write as one of backend_prior_write(), so it need not wait for that one. */
#define BACKEND_REQ_RESUBMIT (1u << 2)

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
	struct backend_request *next, *prev;
	struct backend_queue *queue;
	struct loop_msg msg;
	uint64_t progress;
	uint64_t mark;
	uint64_t since_ns, sent_ns;
	unsigned int losses;
	unsigned int pending;
	unsigned int stage;
	unsigned int state;
	int error;
};

/* Why a connection ended, or did not come about. */
enum backend_loss {
	BACKEND_LOSS_REFUSED,	  /* cannot connect */
	BACKEND_LOSS_HANDSHAKE,	  /* the server does not give the export, in due form */
	BACKEND_LOSS_CLOSED,	  /* the server closed, or was killed */
	BACKEND_LOSS_SHUTDOWN,	  /* the server said that it would */
	BACKEND_LOSS_NETWORK,	  /* no way to the peer any more */
	BACKEND_LOSS_TIMEOUT,	  /* connecting or negotiating took too long */
	BACKEND_LOSS_REQUEST,	  /* a request took too long */
	BACKEND_LOSS_FAILED,	  /* backend_fail() */
	BACKEND_LOSS_BAD_HANDSHAKE, /* violations: anything during the negotiation */
	BACKEND_LOSS_BAD_MAGIC,	  /* no reply begins like this */
	BACKEND_LOSS_BAD_HEADER,  /* type, flags or length of a reply */
	BACKEND_LOSS_BAD_COOKIE,  /* answer to something that was not asked */
	BACKEND_LOSS_BAD_CHUNK,	  /* out of range, overlapping, or of the wrong kind */
	BACKEND_LOSS_BAD_LENGTH,  /* success with less data than was asked for */
	_BACKEND_LOSS_MAX,
};

/* One connection to the server: what it is doing, and counters since backend_open(). */
struct backend_link_stats {
	const char *state; /* static text */
	uint64_t connects;   /* connections on which requests could be sent */
	uint64_t attempts;   /* to connect */
	uint64_t losses[_BACKEND_LOSS_MAX];
	uint64_t requests;    /* taken over */
	uint64_t errors;      /* of those, failed */
	uint64_t resubmitted; /* sent again after a loss */
	uint64_t held;	      /* writes that waited for a late one */
	uint64_t replayed;    /* acknowledged writes that were repeated */
	uint64_t flushes;     /* sent for other queues, or to make room in the log */
	uint64_t bytes_sent;
	uint64_t bytes_received;
	uint64_t in_flight; /* now, on the wire */
	uint64_t waiting;   /* now, for a connection or something else */
	uint64_t unflushed; /* now, bytes in the replay log */
	uint64_t memory;    /* bytes allocated for it, the log included */
	uint64_t fenced; /* now, ranges of bytes that late writes of any connection may change */
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
	/* Optional; see the functions of the same names. */
	void (*set_tunables)(struct backend *backend, const struct backend_tunables *t);
	void (*fail)(struct backend *backend);
	void (*refresh)(struct backend *backend);
	void (*prior_write)(struct backend *backend, uint64_t offset, uint64_t length);
	size_t (*journal_bytes)(const struct backend *backend);
	void (*use_journal)(struct backend *backend, void *memory, size_t bytes, bool inherited);
	int (*lend_journal)(struct backend *backend, bool lent);
	bool (*owes_flush)(struct backend *backend);
	int (*link_stats)(struct backend *backend, unsigned int index,
			  struct backend_link_stats *ret_stats);
	int (*descriptor)(const struct backend *backend);
};

/* First member of every backend's own structure. */
struct backend {
	const struct backend_ops *ops;
	struct backend_info info;
	struct backend_options options; /* defaults filled in; .tunables: those in force */
	bool refreshing; /* main thread */
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
 * backend_journal_bytes() - memory for backend_use_journal()
 * @backend: open
 *
 * Return: bytes; 0 if there is nothing to be kept.
 */
size_t backend_journal_bytes(const struct backend *backend);

/**
 * backend_use_journal() - keep what must not be lost with this process
 * @backend: open, without queues; or they have had no request yet, and the predecessor,
 *	     alive, has flushed and paused
 * @memory: page-aligned shared memory that may be sparse; mapped until all queues are
 *	    destroyed. NULL: there is none
 * @bytes: its size; a predecessor's may be another than backend_journal_bytes()
 * @inherited: a killed predecessor served this disk, and that was its memory; false: it
 *	       is begun anew
 *
 * What a predecessor had acknowledged and not flushed is written again before any
 * other request; if that is not known or not possible, the first flush fails with
 * -EIO. Main thread.
 */
void backend_use_journal(struct backend *backend, void *memory, size_t bytes, bool inherited);

/**
 * backend_lend_journal() - another process uses that memory from now on, or not after all
 * @backend: nothing is in flight, and everything acknowledged is flushed
 * @lent: which
 *
 * As long as it does, a connection that is lost is no reason to write anything again:
 * what is not flushed is the other's. Main thread.
 *
 * Return: 0; -EAGAIN while something is being written again.
 */
int backend_lend_journal(struct backend *backend, bool lent);

/**
 * backend_owes_flush() - would a flush have something to do, or to tell?
 * @backend: nothing is in flight
 *
 * Main thread.
 *
 * Return: false if all that was acknowledged is known to be stable.
 */
bool backend_owes_flush(struct backend *backend);

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
 * backend_set_tunables() - change timeouts
 * @backend: open
 * @tunables: all of them; take those in force from backend->options.tunables
 *
 * Main thread, which must have given its loop (options.events.main). In force at
 * once, also for what waits already.
 */
void backend_set_tunables(struct backend *backend, const struct backend_tunables *tunables);

/**
 * backend_fail() - wait no longer
 * @backend: open
 *
 * Main thread, as above. Every request that has not been answered fails with
 * -EIO, and so does what is submitted until a connection is (again) usable.
 */
void backend_fail(struct backend *backend);

/**
 * backend_refresh() - ask the storage for its size and flags again
 * @backend: open
 *
 * Main thread, as above. events.changed() tells of what is new; events.refreshed()
 * comes once, then, for all calls since it came last. It does not come any more
 * when queue 0 is destroyed and the main loop is not run again.
 */
void backend_refresh(struct backend *backend);

/**
 * backend_refreshed() - for backends: what ops->refresh() has begun is over
 * @backend: open
 * @error: 0 or -errno
 *
 * Main thread.
 */
void backend_refreshed(struct backend *backend, int error);

/**
 * backend_prior_write() - a predecessor of this process may still be writing here
 * @backend: open
 * @offset: of the first byte
 * @length: in bytes
 *
 * It was killed with that write in flight, and its server may carry it out late:
 * newer writes to these bytes wait, for tunables.fence_ms from now on.
 *
 * Any thread; before that write is submitted again, and so before the driver can
 * learn of its end and send a newer one.
 */
void backend_prior_write(struct backend *backend, uint64_t offset, uint64_t length);

/**
 * backend_link_stats() - state and counters of a connection
 * @backend: open
 * @index: 0...info.connections - 1
 * @ret_stats: written only on success
 *
 * Any thread.
 *
 * Return: 0 or -ENOENT.
 */
int backend_link_stats(struct backend *backend, unsigned int index,
		       struct backend_link_stats *ret_stats);

/**
 * backend_descriptor() - what a successor needs to open the storage meanwhile
 * @backend: open
 *
 * A file that only one process may open is handed over open.
 *
 * Return: a descriptor that stays the backend's, or -1: a successor needs none.
 */
static inline int backend_descriptor(const struct backend *backend)
{
	return backend->ops->descriptor ? backend->ops->descriptor(backend) : -1;
}

/**
 * backend_loss_name() - for status and statistics
 * @loss: why a connection ended
 *
 * Return: static text, one word.
 */
const char *backend_loss_name(enum backend_loss loss);

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
