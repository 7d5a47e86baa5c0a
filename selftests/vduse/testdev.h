/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VDUSE block device for tests: creates it, answers its control messages and
 * serves its virtqueues from a RAM disk, split or packed, in one thread. Every
 * misbehaviour that a test needs is a switch in struct testdev, so that a test
 * reads as "serve normally, then stop reading messages, then ...".
 *
 * The RAM disk is a shared mapping: a forked daemon and the test see the same
 * data, and it outlives a daemon that is killed.
 */
#ifndef VDUSE_TEST_TESTDEV_H
#define VDUSE_TEST_TESTDEV_H

#include <linux/vduse.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define TESTDEV_QUEUES 8
#define TESTDEV_HELD 512
#define TESTDEV_LOG 256
#define TESTDEV_REGIONS 32
#define TESTDEV_SEGS 260

/* What a read-write block device without extras offers. */
#define TESTDEV_FEATURES                                               \
	(BIT64(VIRTIO_F_ACCESS_PLATFORM) | BIT64(VIRTIO_F_VERSION_1) | \
	 BIT64(VIRTIO_BLK_F_FLUSH) | BIT64(VIRTIO_BLK_F_SEG_MAX) |     \
	 BIT64(VIRTIO_BLK_F_MQ) | BIT64(VIRTIO_RING_F_INDIRECT_DESC))

/* One piece of guest memory that the daemon mapped. */
struct testdev_region {
	uint64_t start, last;
	void *map;
	uint8_t perm;
};

struct testdev_seg {
	uint64_t iova;
	uint32_t len;
	bool write;
};

/* A request taken from a ring. @ndesc: ring slots it uses (packed). */
struct testdev_req {
	unsigned int queue;
	uint16_t id;
	uint16_t ndesc;
	unsigned int nsegs;
	struct testdev_seg segs[TESTDEV_SEGS];
};

struct testdev_queue {
	int kickfd;
	bool ready;
	uint16_t num;
	uint64_t desc, driver, device;
	uint16_t avail_idx, used_idx;
	bool avail_wrap, used_wrap;
};

/**
 * struct testdev - the device and the daemon's side of it
 * @name, @features, @queues, @queue_size, @size: set before testdev_create();
 *	@size is in bytes, @features without VIRTIO_F_RING_PACKED means split
 * @hold_messages: do not read control messages
 * @hold_answers: read them, keep them in @unanswered
 * @fail_mask: answer VDUSE_REQ_RESULT_FAILED to these types (BIT64(type))
 * @hold_io: leave the rings alone
 * @hold_every: take, and never complete, every Nth request (0: complete all);
 *	so others complete out of order
 * @heed_removal: complete what was kept when POLLPRI tells of a removal
 * @told: it did, that often
 * @served, @held: how many requests were completed, and were kept
 * @log, @nlog: every message that was read
 * @up: the device is open and its queues are set up
 * @disk: the RAM disk
 * @umem: when set, bounce memory is reached here instead of through mmap
 *
 * The switches may be changed while the thread runs; testdev_poke() makes it
 * look at once. The rest belongs to the thread between testdev_start() and
 * testdev_stop(), except @log, which testdev_logged() reads.
 */
struct testdev {
	char name[VDUSE_NAME_MAX];
	uint64_t features;
	unsigned int queues;
	unsigned int queue_size;
	uint64_t size;

	volatile bool hold_messages;
	volatile bool hold_answers;
	volatile bool hold_io;
	volatile unsigned int hold_every;
	volatile unsigned int fail_mask;
	volatile bool heed_removal;

	volatile unsigned int told;
	volatile unsigned long served;
	volatile unsigned long held;
	struct vduse_dev_request log[TESTDEV_LOG];
	volatile unsigned int nlog;
	struct vduse_dev_request unanswered[16];
	volatile unsigned int nunanswered;

	int fd;
	int wake;
	volatile bool up;
	bool running;
	volatile bool stop;
	pthread_t thread;
	uint64_t driver_features;
	uint8_t status;
	unsigned char *disk;
	unsigned char *umem;
	uint64_t umem_size;
	unsigned long taken;
	struct testdev_queue vq[TESTDEV_QUEUES];
	struct testdev_region region[TESTDEV_REGIONS];
	unsigned int nregions;
	bool stale;
	struct testdev_req *kept[TESTDEV_HELD];
	unsigned int nkept;
};

/*
 * Fill in defaults: split, one queue of 64, 4 MiB. The process ID is appended
 * to @prefix, so that what a failed test leaves does not fail the next one.
 */
void testdev_init(struct testdev *t, const char *prefix);

/* /dev/vduse/NAME, and an attribute in sysfs. Valid until the next call. */
const char *testdev_node(const struct testdev *t);
const char *testdev_attr(const struct testdev *t, const char *attr);

/* VDUSE_CREATE_DEV and the RAM disk. 0 or -errno. */
int testdev_create(struct testdev *t);

/* Open /dev/vduse/NAME and set up its virtqueues. 0 or -errno. */
int testdev_open(struct testdev *t);

/* Serve in a thread, until testdev_stop(). 0 or -errno. */
int testdev_start(struct testdev *t);
void testdev_stop(struct testdev *t);

/* Serve in this thread, for ever: for a forked daemon that gets killed. */
void testdev_run(struct testdev *t);

/* Make the thread look at the switches. */
void testdev_poke(struct testdev *t);

/* Drop all mappings; bounce memory is at @umem from now on. Thread stopped. */
void testdev_remap(struct testdev *t, unsigned char *umem, uint64_t size);

/* Look at all rings once, whoever forgot to kick. */
void testdev_kick_all(struct testdev *t);

/* Complete what hold_every kept; only while the thread is stopped. */
void testdev_release_held(struct testdev *t);

/* Forget mappings, close the device. The thread is stopped. */
void testdev_close(struct testdev *t);

/* VDUSE_DESTROY_DEV, after closing. 0 or -errno. */
int testdev_destroy(struct testdev *t);

/* All of create, open, start. 0 or -errno. */
int testdev_up(struct testdev *t);

/* All of stop, vdpa dev del, close, destroy; goes on after errors. First error. */
int testdev_down(struct testdev *t);

/* Answer one message. 0 or -errno. */
int testdev_answer(struct testdev *t, const struct vduse_dev_request *req,
		   uint32_t result);

/* How many messages of @type are in the log, from entry @from on. */
unsigned int testdev_logged(struct testdev *t, uint32_t type,
			    unsigned int from);

/* Copy from or to guest memory. 0 or -errno. */
int testdev_copy(struct testdev *t, uint64_t iova, void *buf, size_t len,
		 bool write);

/* ioctl on a fresh control descriptor. 0 or -errno. */
int vduse_control(unsigned long cmd, const void *arg);

/* VDUSE_DESTROY_DEV by name. 0 or -errno. */
int vduse_destroy(const char *name);

#endif
