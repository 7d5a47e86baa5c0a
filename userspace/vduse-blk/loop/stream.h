/* SPDX-License-Identifier: MIT */
/*
 * A byte-stream connection (TCP over IPv4 or IPv6, UNIX socket) on a loop.
 *
 *	CONNECTING -> OPEN -> CLOSING -> CLOSED (-> CONNECTING ...)
 *
 * Sending: segments queue up and go out in order; one send operation is in
 * flight at a time and carries everything that was queued when it was made.
 * Segments point at the caller's memory, nothing is copied but small heads.
 *
 * Receiving: one receive operation into a large buffer; the owner consumes
 * bytes through a callback and can have a large payload received straight
 * into its own memory instead (stream_receive_direct()).
 *
 * The owner hears of the end exactly once, through closed(); from then on no
 * operation refers to the stream, to segments or to buffers.
 */
#ifndef LOOP_STREAM_H
#define LOOP_STREAM_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/error.h"
#include "loop/loop.h"

struct stream;

struct stream_addr {
	socklen_t len;
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} sa;
};

/**
 * stream_addr_unix() - address of a UNIX socket
 * @path: file name, or "@name" for the abstract name space
 * @ret_addr: written only on success
 * @e: error text
 *
 * Return: 0 or -EINVAL (empty or too long).
 */
int stream_addr_unix(const char *path, struct stream_addr *ret_addr, struct error *e);

/**
 * stream_addr_resolve() - addresses of a TCP service, in the system's order of preference
 * @host: name, IPv4 or IPv6 literal
 * @port: decimal
 * @ret_addrs: written only on success
 * @max: entries of @ret_addrs
 * @e: error text
 *
 * Blocks in the resolver: only for start-up.
 *
 * Return: number of addresses (at least 1), or -errno.
 */
int stream_addr_resolve(const char *host, const char *port, struct stream_addr *ret_addrs,
			unsigned int max, struct error *e);

/* Bytes of a printed address. */
#define STREAM_ADDR_TEXT 128

/**
 * stream_addr_text() - "host:port", "[host]:port" or the socket's path
 * @addr: address
 * @text: receives the text
 *
 * Return: @text.
 */
const char *stream_addr_text(const struct stream_addr *addr, char text[STREAM_ADDR_TEXT]);

/* Largest head of a segment; heads are copied, so the caller's may change after the call. */
#define STREAM_HEAD_MAX 32

/*
 * Something to send: a small head, then @len bytes of the memory that @iov
 * describes, from byte @skip on. Filled in by the caller, who keeps @iov and
 * the memory valid until sent(), or closed(), which comes without sent() for
 * the segments that were not sent.
 */
struct stream_seg {
	uint8_t head[STREAM_HEAD_MAX];
	unsigned int head_len;
	unsigned int niov;
	const struct iovec *iov;
	size_t skip;
	size_t len;
	/* The last byte was given to the kernel. NULL: nobody wants to know. */
	void (*sent)(struct stream_seg *seg);
	struct stream_seg *next; /* private */
	size_t done;		 /* private */
};

struct stream_ops {
	/* Connected. Once, before the first data(). */
	void (*open)(struct stream *stream);
	/*
	 * Bytes arrived. Returns how many were consumed, at most @n; the rest
	 * is shown again, followed by more, when more has arrived. Returning
	 * less than was necessary to progress must leave at most
	 * STREAM_CARRY_MAX bytes. After stream_receive_direct() or
	 * stream_close() the return value covers what precedes that call.
	 */
	size_t (*data)(struct stream *stream, const uint8_t *p, size_t n);
	/* The memory given to stream_receive_direct() has been filled. */
	void (*direct_done)(struct stream *stream);
	/*
	 * The end, exactly once for each stream that was connected or
	 * adopted: @error is 0 if stream_close() was called with 0, -EPIPE
	 * when the peer closed, -ETIMEDOUT, or another -errno. The stream may
	 * be destroyed here.
	 */
	void (*closed)(struct stream *stream, int error);
};

/* Largest rest that data() may leave unconsumed. */
#define STREAM_CARRY_MAX 4096

/* Written by the loop's thread only; see counter_read() for other threads. */
struct stream_stats {
	uint64_t sends; /* operations */
	uint64_t recvs; /* operations that brought data */
	uint64_t bytes_sent;
	uint64_t bytes_received;
	uint64_t bytes_direct; /* of those, received without a copy */
};

struct stream_params {
	const struct stream_ops *ops;
	void *owner;			 /* for stream_owner() */
	size_t recv_size;		 /* receive buffer; 0: 256 KiB */
	unsigned int max_iov;		 /* pieces of one send; 0: 256, at most IOV_MAX */
	unsigned int connect_timeout_ms; /* 0: none */
	struct stream_stats *stats;	 /* where to count; NULL: in the stream */
};

/**
 * stream_create() - allocate a stream and its buffers
 * @loop: the calling thread's loop
 * @params: copied
 * @ret_stream: written only on success
 * @e: error text
 *
 * Return: 0 or -errno.
 */
int stream_create(struct loop *loop, const struct stream_params *params, struct stream **ret_stream,
		  struct error *e);

/**
 * stream_destroy() - free a stream that was never connected, or is closed
 * @stream: may be NULL
 */
void stream_destroy(struct stream *stream);

/**
 * stream_connect() - connect; open() or closed() follows
 * @stream: new, or closed: then it begins anew, with the same buffers
 * @addr: peer
 * @e: error text
 *
 * Return: 0, or -errno if there is no socket to be had (then neither follows).
 */
int stream_connect(struct stream *stream, const struct stream_addr *addr, struct error *e);

/**
 * stream_adopt() - use a socket that is connected already; open() is not called
 * @stream: new or closed
 * @fd: the stream owns it from now on
 */
void stream_adopt(struct stream *stream, int fd);

/**
 * stream_set_keepalive() - when to give up a peer whose kernel is silent
 * @stream: any; on UNIX sockets without effect
 * @ms: for probes that are not answered, and for bytes that are not acknowledged; 0: never
 *
 * The kernel does it all. The end is then closed() with -ETIMEDOUT or what the
 * network said. Counts from the next connection on, too.
 */
void stream_set_keepalive(struct stream *stream, unsigned int ms);

/**
 * stream_release_fd() - take the socket out of an open stream, and the stream to CLOSED
 * @stream: open; with @error 0 nothing may be queued
 * @error: 0 or -errno, handed to closed(), which is called when the stream's
 *	   operations are gone
 *
 * What is queued is dropped, be it in the middle of a segment. Bytes that
 * arrived and were not consumed are lost. The socket is no longer the stream's
 * when this returns, but may be used only after closed().
 *
 * Return: the socket; -EBADF if the stream is not open.
 */
int stream_release_fd(struct stream *stream, int error);

/**
 * stream_send() - queue a segment
 * @stream: open stream (on others the segment is dropped; closed() is on its way)
 * @seg: see struct stream_seg
 *
 * Segments that are queued in one batch of completions leave together. sent()
 * is never called before this returns.
 */
void stream_send(struct stream *stream, struct stream_seg *seg);

/**
 * stream_receive_direct() - put the next bytes into the caller's memory
 * @stream: the stream; only from inside data()
 * @iov: memory, valid until direct_done() or closed()
 * @niov: entries of @iov
 * @skip: first byte within @iov
 * @len: how many bytes; at least 1
 *
 * What the receive buffer already holds is copied, the rest is received in
 * place by one operation.
 */
void stream_receive_direct(struct stream *stream, const struct iovec *iov, unsigned int niov,
			   size_t skip, size_t len);

/**
 * stream_close() - stop; closed() follows, never before this returns
 * @stream: connecting or open; on others ignored
 * @error: 0 or -errno, handed to closed()
 *
 * No callback but closed() is called any more. With @error 0, what was queued
 * is still sent (for at most a second); otherwise it is dropped.
 */
void stream_close(struct stream *stream, int error);

/**
 * stream_owner() - what was given at creation
 * @stream: the stream
 *
 * Return: stream_params.owner.
 */
void *stream_owner(const struct stream *stream);

/**
 * stream_stats() - counters
 * @stream: the stream
 *
 * Return: valid as long as the stream.
 */
const struct stream_stats *stream_stats(const struct stream *stream);

/**
 * stream_memory() - bytes that it has allocated
 * @stream: the stream
 *
 * Return: bytes, constant.
 */
size_t stream_memory(const struct stream *stream);

#endif
