/* SPDX-License-Identifier: MIT */
/*
 * virtio_blk.h: a virtio block device (virtio 1.2, 5.2) on top of a backend.
 *
 * struct vblk_device is what the driver sees of the disk as a whole: features
 * and configuration space. All queues share it without locks: what changes after
 * vblk_device_init() is changed by the main thread with the functions below, each
 * in one store, and a request looks at it once.
 *
 * struct vblk_queue is one request queue. It belongs to one thread, the one
 * that runs its loop; every function below with a queue as its argument is
 * called on that thread, except create and destroy, which may also be called
 * while that loop does not run.
 *
 *	create -> start -> (kick ...) -> stop -> start ... -> destroy
 */
#ifndef VIRTIO_VIRTIO_BLK_H
#define VIRTIO_VIRTIO_BLK_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

#include "virtio/iotlb.h"
#include "virtio/transport.h"
#include "virtio/virtqueue.h"

struct backend_info;
struct backend_queue;
struct error;
struct histogram;
struct loop;

/* Data segments in one request at most: seg_max when the queue is long enough. */
#define VBLK_SEG_MAX		254u
/* Segments in one discard or write-zeroes request, at most. */
#define VBLK_RANGES_MAX		32u
/* A limit on requests is the product of segments and their size: no segment is larger. */
#define VBLK_LIMITED_SEG_SIZE	4096u
/* Length of the identifier that GET_ID returns, padded with NUL. */
#define VBLK_ID_BYTES		VIRTIO_BLK_ID_BYTES
#define VBLK_SECTOR_SHIFT	9
#define VBLK_SECTOR_SIZE	(1u << VBLK_SECTOR_SHIFT)

/**
 * struct vblk_device_params - from the command line and the backend
 * @info: what the backend can do; copied
 * @num_queues: 1 to 65535
 * @queue_size: longest ring that a queue may get; bounds seg_max
 * @packed: offer the packed ring too
 * @read_only: refuse writes even when the backend could do them
 * @block_size: logical block size in bytes, a power of two, not smaller than the
 *	backend's and at most BACKEND_MAX_BLOCK_SIZE; 0: the backend's
 * @serial: what GET_ID returns, at most VBLK_ID_BYTES are used; NULL: empty
 * @max_request: bytes of data in one request at most, in segments of
 *	VBLK_LIMITED_SEG_SIZE; 0: whatever fits into the ring
 */
struct vblk_device_params {
	const struct backend_info *info;
	unsigned int num_queues;
	unsigned int queue_size;
	bool packed;
	bool read_only;
	uint32_t block_size;
	const char *serial;
	uint32_t max_request;
};

/**
 * struct vblk_device - the disk, as the driver sees it
 * @features: what to offer, VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM and the
 *	ring features included
 * @config: the configuration space, little-endian, to be shown as it is
 * @capacity: sectors of 512 bytes; only ever grows
 * @block_size: logical block size in bytes; every request is a multiple of it
 * @backend_flags: BACKEND_F_* of the backend
 * @read_only: refuse whatever would change the disk
 * @failing: fail everything that needs the storage
 * @flush_owed: not 0: the driver's next flush fails, for the daemon's own did
 * @own_flush_owed: where that is, if nobody keeps it elsewhere
 * @id: for GET_ID
 */
struct vblk_device {
	uint64_t features;
	struct virtio_blk_config config;
	uint64_t capacity;
	uint32_t block_size;
	uint32_t backend_flags;
	bool read_only;
	bool failing;
	uint8_t *flush_owed;
	uint8_t own_flush_owed;
	char id[VBLK_ID_BYTES];
};

/**
 * vblk_device_init() - work out features and configuration space
 * @dev: to be filled
 * @params: options, checked here
 * @e: says what is wrong with them
 *
 * Return: 0 or -EINVAL.
 */
int vblk_device_init(struct vblk_device *dev, const struct vblk_device_params *params,
		     struct error *e);

/**
 * vblk_device_set_capacity() - the storage has grown
 * @dev: the disk
 * @bytes: its new size; what is less than a block at the end is left out
 *
 * Requests may use the new part at once; tell the driver afterwards, through its
 * transport. A disk never shrinks under its driver: what is no longer there fails
 * in the backend.
 *
 * Context: the main thread, while queues run.
 * Return: 0, or -EINVAL when it is not larger than before.
 */
int vblk_device_set_capacity(struct vblk_device *dev, uint64_t bytes);

/**
 * vblk_device_set_read_only() - refuse writes from now on, or no longer
 * @dev: the disk
 * @read_only: what a driver was told at the start (VIRTIO_BLK_F_RO) stays
 *
 * Context: the main thread, while queues run.
 */
void vblk_device_set_read_only(struct vblk_device *dev, bool read_only);

/**
 * vblk_device_set_failing() - fail requests from now on, or no longer
 * @dev: the disk
 * @failing: requests get an I/O error instead of the backend. What the backend
 *	has already is not touched.
 *
 * Context: the main thread, while queues run.
 */
void vblk_device_set_failing(struct vblk_device *dev, bool failing);

/**
 * vblk_device_owe_flush_error() - fail the driver's next flush
 * @dev: the disk
 *
 * Storage says once that acknowledged writes were lost. When it says so to a
 * flush of the daemon's own, the driver still has to hear of it.
 *
 * Context: the main thread, while queues run.
 */
void vblk_device_owe_flush_error(struct vblk_device *dev);

/**
 * vblk_device_owes_flush_error() - has the driver yet to hear of a failure?
 * @dev: the disk
 *
 * Return: true from vblk_device_owe_flush_error() to the driver's next flush.
 */
bool vblk_device_owes_flush_error(const struct vblk_device *dev);

/**
 * vblk_device_keep_flush_error() - where a successor will find what is owed
 * @dev: the disk
 * @owed: a byte of shared memory; what is in it already is owed, too. Outlives the
 *	queues.
 *
 * Context: the main thread, before a queue is started.
 */
void vblk_device_keep_flush_error(struct vblk_device *dev, uint8_t *owed);

struct vblk_queue;

/**
 * struct vblk_queue_params - what a queue is made of
 * @dev: the disk; outlives the queue
 * @index: number of the queue, for callbacks and messages
 * @max_num: longest ring it can be started with; a pool of that many requests
 *	is allocated here and nothing later
 * @loop: event loop of the queue's thread
 * @backend: where requests go; created on the same loop; outlives the queue
 * @transport: callbacks
 * @opaque: their first argument
 */
struct vblk_queue_params {
	const struct vblk_device *dev;
	unsigned int index;
	unsigned int max_num;
	struct loop *loop;
	struct backend_queue *backend;
	const struct vblk_transport_ops *transport;
	void *opaque;
};

/**
 * vblk_queue_create() - allocate a queue and its request pool
 * @params: copied
 * @ret_q: the queue, stopped
 * @e: says what failed
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
int vblk_queue_create(const struct vblk_queue_params *params, struct vblk_queue **ret_q,
		      struct error *e);

/**
 * vblk_queue_destroy() - free a queue
 * @q: stopped, or never started; may be NULL
 */
void vblk_queue_destroy(struct vblk_queue *q);

/**
 * struct vblk_queue_start_params - what the driver set up
 * @features: the features that were negotiated, for the whole device
 * @num: ring size
 * @desc: IOVA of the descriptor table or ring
 * @driver: IOVA of the available ring (split) or driver event structure (packed)
 * @device: IOVA of the used ring (split) or device event structure (packed)
 * @state: where to begin
 * @iotlb: address space of the queue's thread; stays the caller's
 * @inflight: log of this queue (inflight.h), stays the caller's and is the queue's
 *	until it is stopped; NULL: keep none. What a predecessor left in it is carried
 *	out first, and says where to begin, whatever @state is.
 */
struct vblk_queue_start_params {
	uint64_t features;
	unsigned int num;
	uint64_t desc;
	uint64_t driver;
	uint64_t device;
	struct virtqueue_state state;
	struct iotlb *iotlb;
	struct inflight *inflight;
};

/**
 * vblk_queue_start() - begin to serve the ring (DRIVER_OK)
 * @q: a stopped queue
 * @params: checked here, since they come from the driver
 * @e: says what is wrong with them
 *
 * Looks at the ring at once: buffers made available earlier need no kick.
 *
 * Return: 0; -EINVAL for bad parameters; -EFAULT or another errno when a ring
 * is not in memory that the iotlb knows; -EBUSY when it is not stopped.
 */
int vblk_queue_start(struct vblk_queue *q, const struct vblk_queue_start_params *params,
		     struct error *e);

/**
 * vblk_prior_writes() - tell the storage what a killed predecessor may still be writing
 * @params: as for vblk_queue_start(), with a log and an iotlb of the caller's own
 * @backend: backend_prior_write() is called for each range of bytes of each write,
 *	write-zeroes and discard request in the log
 * @e: says what is wrong with the ring or the log
 *
 * Those requests are in flight: their data may be on the way to the storage, and
 * may arrive after what is written next. A request that makes no sense has no
 * ranges; it gets its error when it is taken. For use before the queue is
 * started, with another log on the same region, or the same one.
 *
 * Context: any thread, while no queue uses the ring.
 *
 * Return: 0, or -errno like vblk_queue_start().
 */
int vblk_prior_writes(const struct vblk_queue_start_params *params, struct backend *backend,
		      struct error *e);

/**
 * vblk_queue_kick() - the driver's notification arrived
 * @q: any; ignored unless it runs
 *
 * Serves the ring until it is empty. Kicks are hints: spurious ones are harmless.
 */
void vblk_queue_kick(struct vblk_queue *q);

/**
 * vblk_queue_stop() - take no more requests; wait for those in flight
 * @q: a queue in any state
 * @stopped: called exactly once, on the queue's thread, when nothing is in
 *	flight and the last completion is in the used ring; possibly before
 *	vblk_queue_stop() returns. It may start or destroy the queue.
 * @opaque: its argument
 *
 * A second stop before @stopped was called replaces nothing and gets -EBUSY.
 * The state stays readable with vblk_queue_state().
 *
 * Return: 0 or -EBUSY.
 */
int vblk_queue_stop(struct vblk_queue *q, void (*stopped)(struct vblk_queue *q, void *opaque),
		    void *opaque);

/**
 * vblk_queue_resume() - take a stop back
 * @q: any
 *
 * Return: true if the queue was draining: it serves the ring again, and the
 * callback of vblk_queue_stop() is not called. False when there is nothing to
 * take back: the queue is stopped, or runs.
 */
bool vblk_queue_resume(struct vblk_queue *q);

/**
 * vblk_queue_state() - position in the ring (VDUSE_GET_VQ_STATE)
 * @q: any; one that never started says all zero (wrap counters set)
 * @ret_state: the state. What is in flight counts as taken from the ring, so
 *	for handing the ring to another device stop the queue first.
 */
void vblk_queue_state(const struct vblk_queue *q, struct virtqueue_state *ret_state);

/**
 * struct vblk_queue_stats - counters since creation
 * @read_ops, @write_ops, @flush_ops, @discard_ops, @write_zeroes_ops: completed
 * @other_ops: GET_ID and what is not supported
 * @read_bytes, @write_bytes: payload of completed requests
 * @errors: completed with a status other than OK
 * @read_errors, @write_errors, @flush_errors, @other_errors: the same by kind;
 *	discard and write-zeroes are among the others
 * @kicks: notifications from the driver
 * @notifies: notifications to the driver
 * @in_flight: requests taken and not completed, now
 * @broken: the queue waits for a reset
 */
struct vblk_queue_stats {
	uint64_t read_ops, write_ops, flush_ops, discard_ops, write_zeroes_ops;
	uint64_t other_ops;
	uint64_t read_bytes, write_bytes;
	uint64_t errors;
	uint64_t read_errors, write_errors, flush_errors, other_errors;
	uint64_t kicks, notifies;
	uint32_t in_flight;
	bool broken;
};

/**
 * vblk_queue_stats() - read the counters
 * @q: any
 * @ret_stats: a copy
 *
 * Context: any thread; single counters are exact, their combination is not.
 */
void vblk_queue_stats(const struct vblk_queue *q, struct vblk_queue_stats *ret_stats);

/**
 * enum vblk_latency - kinds of requests whose durations are kept apart
 * @VBLK_LATENCY_READ, @VBLK_LATENCY_WRITE, @VBLK_LATENCY_FLUSH: these
 * @VBLK_LATENCY_OTHER: all others
 */
enum vblk_latency {
	VBLK_LATENCY_READ,
	VBLK_LATENCY_WRITE,
	VBLK_LATENCY_FLUSH,
	VBLK_LATENCY_OTHER,
	_VBLK_LATENCY_MAX,
};

/**
 * vblk_queue_latency() - how long requests took, from the ring to their status
 * @q: any
 * @kind: of requests
 * @sum: what was recorded since the queue's creation is added to this
 *
 * Failed requests count too. The clock is read once for a batch.
 *
 * Context: any thread.
 */
void vblk_queue_latency(const struct vblk_queue *q, enum vblk_latency kind,
			struct histogram *sum);

#endif /* VIRTIO_VIRTIO_BLK_H */
