// SPDX-License-Identifier: MIT
/*
 * test_virtio_blk.c: features, requests and the life of a queue, with a
 * simulated driver in front and a fake backend behind.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/histogram.h"
#include "base/log.h"
#include "tests/fake_backend.h"
#include "tests/sim_driver.h"
#include "virtio/inflight.h"
#include "virtio/virtio_blk_internal.h"

#define FEATURE(bit)	(1ull << (bit))
#define DISK_BYTES	(1u << 20)
#define DISK_SECTORS	(DISK_BYTES / 512)
#define ALL_FLAGS	(BACKEND_F_FLUSH | BACKEND_F_FUA | BACKEND_F_DISCARD | \
			 BACKEND_F_WRITE_ZEROES)
#define NUM		16u
#define SLOT_BYTES	65536u
#define UNTOUCHED	0xa5

/* --- fixture --- */

struct setup {
	uint32_t backend_flags; /* 0: ALL_FLAGS; NO_FLAGS: none */
	uint32_t block_size; /* 0: 512 */
	bool read_only;
	bool packed;
	uint64_t refuse_features; /* what the driver does not accept */
	const char *serial;
};

#define NO_FLAGS	BACKEND_F_ROTATIONAL

struct fixture {
	struct loop *loop;
	struct fake_backend fake;
	struct vblk_device dev;
	struct vblk_queue *q;
	struct sim_driver *d;
	struct vblk_queue_start_params start;
	struct loop_hook stop_hook;
	struct loop_timer timer;
	unsigned int notifies, resets, stops;
	unsigned int pending_asleep; /* when settle() ended */
	char reason[200];
};

/* One request's memory: device-readable bytes, then device-writable bytes. */
struct request {
	uint64_t out_iova, in_iova;
	uint8_t *out, *in;
	uint32_t out_len, in_len;
	bool done;
	uint32_t used_len;
};

static void on_notify(void *opaque, unsigned int index)
{
	struct fixture *f = opaque;

	assert_int_equal(index, 3);
	f->notifies++;
}

static void on_needs_reset(void *opaque, unsigned int index, const char *reason)
{
	struct fixture *f = opaque;

	assert_int_equal(index, 3);
	f->resets++;
	snprintf(f->reason, sizeof(f->reason), "%s", reason);
}

static const struct vblk_transport_ops transport_ops = { on_notify, on_needs_reset };

static void stop_loop_hook(struct loop_hook *hook)
{
	loop_stop(container_of(hook, struct fixture, stop_hook)->loop);
}

/* Runs before the loop looks for work again: what is pending was found without it. */
static void stop_loop_timer(struct loop_timer *timer)
{
	struct fixture *f = container_of(timer, struct fixture, timer);

	f->pending_asleep = f->fake.num_pending;
	loop_stop(f->loop);
}

/* One iteration of the loop. */
static void step(struct fixture *f)
{
	loop_hook_schedule(f->loop, &f->stop_hook);
	assert_int_equal(loop_run(f->loop), 0);
}

/* Long enough for the loop to have nothing to do and go to sleep. */
static void settle(struct fixture *f)
{
	loop_timer_arm(f->loop, &f->timer, 5);
	assert_int_equal(loop_run(f->loop), 0);
}

static void make_device(struct fixture *f, const struct setup *s)
{
	struct vblk_device_params params = {
		.info = &f->fake.common.info, .num_queues = 4, .queue_size = NUM,
		.packed = s->packed, .read_only = s->read_only, .serial = s->serial,
	};
	struct error e = ERROR_INIT;

	if (vblk_device_init(&f->dev, &params, &e))
		fail_msg("vblk_device_init: %s", e.text);
}

static void begin(struct fixture *f, const struct setup *s)
{
	struct sim_params sim = { .num = NUM, .packed = s->packed, .event_idx = true,
				  .indirect = true, .max_chain = 300 };
	struct loop_params loop_params = { .name = "test" };
	struct vblk_queue_params params;
	struct virtqueue_params vq;
	struct error e = ERROR_INIT;

	memset(f, 0, sizeof(*f));
	if (loop_create(&loop_params, &f->loop, &e))
		fail_msg("loop_create: %s", e.text);
	fake_backend_init(&f->fake, f->loop, DISK_BYTES, s->block_size ? s->block_size : 512,
			  s->backend_flags ? s->backend_flags : ALL_FLAGS);
	make_device(f, s);
	params = (struct vblk_queue_params){
		.dev = &f->dev, .index = 3, .max_num = NUM, .loop = f->loop,
		.backend = &f->fake.queue, .transport = &transport_ops, .opaque = f,
	};
	assert_int_equal(vblk_queue_create(&params, &f->q, &e), 0);
	f->d = sim_create(&sim);
	vq = sim_virtqueue_params(f->d);
	f->start = (struct vblk_queue_start_params){
		.features = f->dev.features & ~s->refuse_features, .num = NUM, .desc = vq.desc,
		.driver = vq.driver, .device = vq.device, .state = vq.state, .iotlb = f->d->iotlb,
	};
	f->stop_hook.run = stop_loop_hook;
	f->timer.expired = stop_loop_timer;
	if (vblk_queue_start(f->q, &f->start, &e))
		fail_msg("vblk_queue_start: %s", e.text);
	settle(f);
}

static void on_stopped(struct vblk_queue *q, void *opaque)
{
	struct fixture *f = opaque;

	assert_ptr_equal(q, f->q);
	f->stops++;
}

static void end(struct fixture *f)
{
	assert_int_equal(vblk_queue_stop(f->q, on_stopped, f), 0);
	assert_int_equal(f->stops, 1);
	assert_int_equal(f->d->iotlb->holds[0] + f->d->iotlb->holds[1], 0);
	vblk_queue_destroy(f->q);
	sim_destroy(f->d);
	fake_backend_exit(&f->fake);
	loop_destroy(f->loop);
}

/* --- building requests --- */

/* Memory number @slot with a header; data and status are marked as untouched. */
static struct request make(const struct fixture *f, unsigned int slot, uint32_t type,
			   uint64_t sector, uint32_t out_data, uint32_t in_data)
{
	struct virtio_blk_outhdr header = { .type = htole32(type), .sector = htole64(sector) };
	struct request r = { .out_len = 16 + out_data, .in_len = in_data + 1 };

	assert_true(r.out_len <= SLOT_BYTES && r.in_len <= SLOT_BYTES);
	r.out_iova = f->d->data + (uint64_t)slot * 2 * SLOT_BYTES;
	r.in_iova = r.out_iova + SLOT_BYTES;
	r.out = sim_mem(f->d, r.out_iova);
	r.in = sim_mem(f->d, r.in_iova);
	memcpy(r.out, &header, sizeof(header));
	memset(r.in, UNTOUCHED, r.in_len);
	return r;
}

/* Cut both parts at the given lengths; what is left over is the last piece. */
static unsigned int cut(struct sim_segment *seg, uint64_t iova, uint32_t len, bool write,
			const uint32_t *cuts)
{
	unsigned int n = 0;

	for (; len; cuts += !!*cuts) {
		uint32_t part = *cuts && *cuts < len ? *cuts : len;

		seg[n++] = (struct sim_segment){ iova, part, write };
		iova += part;
		len -= part;
	}
	return n;
}

static void add_cut(struct fixture *f, struct request *r, const uint32_t *out_cuts,
		    const uint32_t *in_cuts)
{
	struct sim_segment seg[300];
	unsigned int n;

	n = cut(seg, r->out_iova, r->out_len, false, out_cuts);
	n += cut(seg + n, r->in_iova, r->in_len, true, in_cuts);
	assert_true(sim_add(f->d, seg, n, n > 1, r));
}

/* Header, data and status in descriptors of their own, as Linux does it. */
static void add(struct fixture *f, struct request *r)
{
	const uint32_t out_cuts[] = { 16, 0 }, in_cuts[] = { r->in_len - 1, 0 };

	add_cut(f, r, out_cuts, r->in_len > 1 ? in_cuts : out_cuts);
}

static unsigned int reap(struct fixture *f)
{
	struct request *r;
	unsigned int n = 0;
	uint32_t len;
	void *cookie;

	while (sim_get_used(f->d, &cookie, &len)) {
		r = cookie;
		assert_false(r->done);
		r->done = true;
		r->used_len = len;
		n++;
	}
	return n;
}

static uint8_t status_of(const struct request *r)
{
	assert_true(r->done);
	return r->in[r->in_len - 1];
}

static void kick(struct fixture *f)
{
	vblk_queue_kick(f->q);
	step(f);
}

/* Complete every request that the backend gets, until there is none. */
static void run(struct fixture *f)
{
	kick(f);
	while (f->fake.num_pending) {
		fake_backend_complete(&f->fake, 0, 0);
		step(f);
	}
	reap(f);
}

/* --- one request of every kind --- */

#define RANGE_MAX	40

struct range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};

struct expected {
	enum backend_op op;
	uint64_t offset, length;
	uint32_t flags;
};

static const struct request_row {
	const char *name;
	struct setup setup;
	uint32_t type;
	uint64_t sector;
	uint32_t out_data, in_data; /* bytes besides header and status */
	struct range ranges[3]; /* instead of out_data */
	unsigned int many_ranges; /* that many times the first */
	uint32_t range_extra; /* bytes after the ranges */
	uint8_t status;
	uint32_t used_len;
	unsigned int num_expected;
	struct expected expected[3];
} rows[] = {
	/* read */
	{ "read", .type = VIRTIO_BLK_T_IN, .sector = 8, .in_data = 4096, .used_len = 4097,
	  .num_expected = 1, .expected = { { BACKEND_READ, 4096, 4096, 0 } } },
	{ "read one sector", .type = VIRTIO_BLK_T_IN, .sector = 1, .in_data = 512, .used_len = 513,
	  .num_expected = 1, .expected = { { BACKEND_READ, 512, 512, 0 } } },
	{ "read the last sector", .type = VIRTIO_BLK_T_IN, .sector = DISK_SECTORS - 1,
	  .in_data = 512,
	  .used_len = 513, .num_expected = 1,
	  .expected = { { BACKEND_READ, DISK_BYTES - 512, 512, 0 } } },
	{ "read, extra readable bytes", .type = VIRTIO_BLK_T_IN, .sector = 0, .out_data = 7,
	  .in_data = 512,
	  .used_len = 513, .num_expected = 1, .expected = { { BACKEND_READ, 0, 512, 0 } } },
	{ "read beyond the end", .type = VIRTIO_BLK_T_IN, .sector = DISK_SECTORS - 1,
	  .in_data = 1024,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read at the end", .type = VIRTIO_BLK_T_IN, .sector = DISK_SECTORS, .in_data = 512,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read at a sector that overflows", .type = VIRTIO_BLK_T_IN, .sector = UINT64_MAX,
	  .in_data = 512,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read at a byte offset that overflows", .type = VIRTIO_BLK_T_IN, .sector = 1ull << 55,
	  .in_data = 512, .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read no data", .type = VIRTIO_BLK_T_IN, .sector = 0, .status = VIRTIO_BLK_S_IOERR,
	  .used_len = 1 },
	{ "read 511 bytes", .type = VIRTIO_BLK_T_IN, .sector = 0, .in_data = 511,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read 513 bytes", .type = VIRTIO_BLK_T_IN, .sector = 0, .in_data = 513,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read unaligned to 4k blocks", { .block_size = 4096 }, VIRTIO_BLK_T_IN, 1,
	  .in_data = 4096,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read part of a 4k block", { .block_size = 4096 }, VIRTIO_BLK_T_IN, 8, .in_data = 512,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "read a 4k block", { .block_size = 4096 }, VIRTIO_BLK_T_IN, 8, .in_data = 4096,
	  .used_len = 4097, .num_expected = 1, .expected = { { BACKEND_READ, 4096, 4096, 0 } } },
	{ "read a read-only disk", { .read_only = true }, VIRTIO_BLK_T_IN, 0, .in_data = 512,
	  .used_len = 513, .num_expected = 1, .expected = { { BACKEND_READ, 0, 512, 0 } } },

	/* write */
	{ "write", .type = VIRTIO_BLK_T_OUT, .sector = 16, .out_data = 8192, .used_len = 1,
	  .num_expected = 1, .expected = { { BACKEND_WRITE, 8192, 8192, 0 } } },
	{ "write, extra writable bytes", .type = VIRTIO_BLK_T_OUT, .sector = 0, .out_data = 512,
	  .in_data = 9,
	  .used_len = 1, .num_expected = 1, .expected = { { BACKEND_WRITE, 0, 512, 0 } } },
	{ "write beyond the end", .type = VIRTIO_BLK_T_OUT, .sector = DISK_SECTORS - 1,
	  .out_data = 1024,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "write no data", .type = VIRTIO_BLK_T_OUT, .sector = 0, .status = VIRTIO_BLK_S_IOERR,
	  .used_len = 1 },
	{ "write 100 bytes", .type = VIRTIO_BLK_T_OUT, .sector = 0, .out_data = 100,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "write to a read-only disk", { .read_only = true }, VIRTIO_BLK_T_OUT, 0, .out_data = 512,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "write to read-only storage", { .backend_flags = BACKEND_F_READ_ONLY }, VIRTIO_BLK_T_OUT,
	  0,
	  .out_data = 512, .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "write through with FUA", { .refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH) },
	  VIRTIO_BLK_T_OUT,
	  8, .out_data = 512, .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_WRITE, 4096, 512, BACKEND_REQ_FUA } } },
	{ "write through without FUA", { .backend_flags = BACKEND_F_FLUSH,
	  .refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH) }, VIRTIO_BLK_T_OUT, 8, .out_data = 512,
	  .used_len = 1, .num_expected = 2,
	  .expected = { { BACKEND_WRITE, 4096, 512, 0 }, { BACKEND_FLUSH, 0, 0, 0 } } },
	{ "write, storage has FUA and no flush", { .backend_flags = BACKEND_F_FUA },
	  VIRTIO_BLK_T_OUT,
	  8, .out_data = 512, .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_WRITE, 4096, 512, BACKEND_REQ_FUA } } },
	{ "write without a volatile cache", { .backend_flags = NO_FLAGS }, VIRTIO_BLK_T_OUT, 0,
	  .out_data = 512, .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_WRITE, 0, 512, 0 } } },

	/* flush */
	{ "flush", .type = VIRTIO_BLK_T_FLUSH, .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_FLUSH, 0, 0, 0 } } },
	{ "flush with data", .type = VIRTIO_BLK_T_FLUSH, .out_data = 512, .used_len = 1,
	  .num_expected = 1,
	  .expected = { { BACKEND_FLUSH, 0, 0, 0 } } },
	{ "flush, feature not accepted", { .refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH) },
	  VIRTIO_BLK_T_FLUSH, .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_FLUSH, 0, 0, 0 } } },
	{ "flush without a volatile cache", { .backend_flags = NO_FLAGS }, VIRTIO_BLK_T_FLUSH,
	  .used_len = 1 },

	/* identifier */
	{ "get ID", { .serial = "serial" }, VIRTIO_BLK_T_GET_ID, .in_data = 20, .used_len = 21 },
	{ "get ID, 20 characters", { .serial = "01234567890123456789abc" }, VIRTIO_BLK_T_GET_ID,
	  .in_data = 20, .used_len = 21 },
	{ "get ID, none", .type = VIRTIO_BLK_T_GET_ID, .in_data = 20, .used_len = 21 },
	{ "get ID, short buffer", { .serial = "serial" }, VIRTIO_BLK_T_GET_ID, .in_data = 3,
	  .used_len = 4 },
	{ "get ID, long buffer", { .serial = "serial" }, VIRTIO_BLK_T_GET_ID, .in_data = 64,
	  .used_len = 20 },
	{ "get ID, no buffer", .type = VIRTIO_BLK_T_GET_ID, .status = VIRTIO_BLK_S_IOERR,
	  .used_len = 1 },

	/* discard */
	{ "discard", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 16, 0 } }, .used_len = 1,
	  .num_expected = 1,
	  .expected = { { BACKEND_DISCARD, 4096, 8192, 0 } } },
	{ "discard three ranges", .type = VIRTIO_BLK_T_DISCARD,
	  .ranges = { { 0, 1, 0 }, { 100, 2, 0 }, { DISK_SECTORS - 128, 128, 0 } }, .used_len = 1,
	  .num_expected = 3, .expected = { { BACKEND_DISCARD, 0, 512, 0 },
		{ BACKEND_DISCARD, 51200, 1024, 0 },
		{ BACKEND_DISCARD, DISK_BYTES - 65536, 65536, 0 } } },
	{ "discard, not offered", { .backend_flags = BACKEND_F_FLUSH }, VIRTIO_BLK_T_DISCARD,
	  .ranges = { { 8, 16, 0 } }, .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "discard, read-only", { .read_only = true }, VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 16,
	  0 } },
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard with unmap", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 16, 1 } },
	  .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "discard with an unknown flag", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 16,
	  0x80 } },
	  .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "discard, flag in the last of bad ranges", .type = VIRTIO_BLK_T_DISCARD,
	  .ranges = { { DISK_SECTORS, 16, 0 }, { 8, 16, 2 } }, .status = VIRTIO_BLK_S_UNSUPP,
	  .used_len = 1 },
	{ "discard beyond the end", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { DISK_SECTORS - 1, 2,
	  0 } },
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard, second range bad: none is done", .type = VIRTIO_BLK_T_DISCARD,
	  .ranges = { { 8, 16, 0 }, { UINT64_MAX, 1, 0 } }, .status = VIRTIO_BLK_S_IOERR,
	  .used_len = 1 },
	{ "discard a range too long", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 0, 129, 0 } },
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard no ranges", .type = VIRTIO_BLK_T_DISCARD, .status = VIRTIO_BLK_S_IOERR,
	  .used_len = 1 },
	{ "discard an empty range", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 0, 0 } },
	  .many_ranges = 1,
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard one byte more than a range", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 16,
	  0 } },
	  .range_extra = 1, .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard too many ranges", .type = VIRTIO_BLK_T_DISCARD, .ranges = { { 8, 1, 0 } },
	  .many_ranges = VBLK_RANGES_MAX + 1, .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard unaligned to 4k blocks", { .block_size = 4096 }, VIRTIO_BLK_T_DISCARD,
	  .ranges = { { 8, 4, 0 } }, .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "discard, write-through", { .refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH) },
	  VIRTIO_BLK_T_DISCARD,
	  .ranges = { { 8, 16, 0 } }, .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_DISCARD, 4096, 8192, 0 } } },

	/* write-zeroes */
	{ "write zeroes", .type = VIRTIO_BLK_T_WRITE_ZEROES, .ranges = { { 8, 16, 0 } },
	  .used_len = 1,
	  .num_expected = 1, .expected = { { BACKEND_WRITE_ZEROES, 4096, 8192, 0 } } },
	{ "write zeroes with unmap", .type = VIRTIO_BLK_T_WRITE_ZEROES, .ranges = { { 8, 16, 1 } },
	  .used_len = 1, .num_expected = 1,
	  .expected = { { BACKEND_WRITE_ZEROES, 4096, 8192, BACKEND_REQ_MAY_UNMAP } } },
	{ "write zeroes, unmap in one of two", .type = VIRTIO_BLK_T_WRITE_ZEROES,
	  .ranges = { { 8, 16, 1 }, { 64, 1, 0 } }, .used_len = 1, .num_expected = 2,
	  .expected = { { BACKEND_WRITE_ZEROES, 4096, 8192, 0 }, { BACKEND_WRITE_ZEROES, 32768, 512,
	  0 } } },
	{ "write zeroes with an unknown flag", .type = VIRTIO_BLK_T_WRITE_ZEROES,
	  .ranges = { { 8, 16, 3 } }, .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "write zeroes, not offered", { .backend_flags = BACKEND_F_FLUSH },
	  VIRTIO_BLK_T_WRITE_ZEROES,
	  .ranges = { { 8, 16, 0 } }, .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "write zeroes, read-only", { .read_only = true }, VIRTIO_BLK_T_WRITE_ZEROES,
	  .ranges = { { 8, 16, 0 } }, .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "write zeroes, a range too long", .type = VIRTIO_BLK_T_WRITE_ZEROES, .ranges = { { 0, 65,
	  0 } },
	  .status = VIRTIO_BLK_S_IOERR, .used_len = 1 },
	{ "write zeroes through with FUA", { .refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH) },
	  VIRTIO_BLK_T_WRITE_ZEROES, .ranges = { { 8, 16, 0 }, { 64, 1, 0 } }, .used_len = 1,
	  .num_expected = 2,
	  .expected = { { BACKEND_WRITE_ZEROES, 4096, 8192, BACKEND_REQ_FUA },
			{ BACKEND_WRITE_ZEROES, 32768, 512, BACKEND_REQ_FUA } } },
	{ "write zeroes through without FUA",
	  { .backend_flags = BACKEND_F_FLUSH | BACKEND_F_WRITE_ZEROES,
	  .refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH) }, VIRTIO_BLK_T_WRITE_ZEROES,
	  .ranges = { { 8, 16, 0 }, { 64, 1, 1 } }, .used_len = 1, .num_expected = 3,
	  .expected = { { BACKEND_WRITE_ZEROES, 4096, 8192, 0 }, { BACKEND_WRITE_ZEROES, 32768, 512,
	  0 },
			{ BACKEND_FLUSH, 0, 0, 0 } } },

	/* what we do not know */
	{ "get lifetime", .type = 10, .in_data = 6, .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "secure erase", .type = 14, .ranges = { { 8, 16, 0 } }, .status = VIRTIO_BLK_S_UNSUPP,
	  .used_len = 1 },
	{ "zone report", .type = 16, .in_data = 64, .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
	{ "SCSI command", .type = VIRTIO_BLK_T_SCSI_CMD, .in_data = 64,
	  .status = VIRTIO_BLK_S_UNSUPP,
	  .used_len = 1 },
	{ "barrier bit", .type = 0x80000000, .in_data = 512, .status = VIRTIO_BLK_S_UNSUPP,
	  .used_len = 1 },
	{ "type of all ones", .type = UINT32_MAX, .status = VIRTIO_BLK_S_UNSUPP, .used_len = 1 },
};

static uint32_t put_ranges(struct request *r, const struct request_row *row)
{
	uint8_t *at = r->out + 16;
	unsigned int i, n = row->many_ranges;

	if (!n)
		for (; n < ARRAY_SIZE(row->ranges) && row->ranges[n].sectors; n++)
			;
	for (i = 0; i < n; i++, at += 16) {
		const struct range *range = &row->ranges[row->many_ranges ? 0 : i];
		struct virtio_blk_discard_write_zeroes w = {
			htole64(range->sector), htole32(range->sectors), htole32(range->flags) };

		memcpy(at, &w, sizeof(w));
	}
	return n ? n * 16 + row->range_extra : 0;
}

static void check_submitted(const struct fixture *f, const struct request_row *row, unsigned int i)
{
	const struct backend_request *b = f->fake.pending[0];
	const struct expected *x = &row->expected[i];

	if (f->fake.num_pending != 1 || b->op != x->op || b->offset != x->offset ||
	    b->length != x->length || b->flags != x->flags)
		fail_msg("%s: backend request %u is %s %llu+%llu flags %u", row->name, i,
			 backend_op_name(b->op), (unsigned long long)b->offset,
			 (unsigned long long)b->length, b->flags);
}

static void check_data(const struct fixture *f, const struct request_row *row,
		       const struct request *r)
{
	const bool ok = row->status == VIRTIO_BLK_S_OK;
	uint32_t i, n = row->type == VIRTIO_BLK_T_IN && ok ? row->in_data : 0;
	char id[VBLK_ID_BYTES] = "";

	for (i = 0; i < n; i++)
		assert_int_equal(r->in[i], fake_pattern(row->sector * 512 + i));
	if (row->type == VIRTIO_BLK_T_GET_ID && row->in_data) {
		if (row->setup.serial)
			memcpy(id, row->setup.serial, strnlen(row->setup.serial, sizeof(id)));
		n = min(row->in_data, (uint32_t)sizeof(id));
		assert_memory_equal(r->in, id, n);
	}
	for (i = n; i < row->in_data; i++)
		assert_int_equal(r->in[i], UNTOUCHED);
	if (row->type == VIRTIO_BLK_T_OUT && ok)
		assert_memory_equal(f->fake.disk + row->sector * 512, r->out + 16, row->out_data);
}

static void run_row(const struct request_row *row, bool packed)
{
	struct setup setup = row->setup;
	struct vblk_queue_stats stats;
	struct fixture f;
	struct request r;
	unsigned int i;

	setup.packed = packed;
	begin(&f, &setup);
	r = make(&f, 0, row->type, row->sector, row->out_data, row->in_data);
	if (!row->out_data) {
		r.out_len += put_ranges(&r, row);
	} else {
		for (i = 0; i < row->out_data; i++)
			r.out[16 + i] = (uint8_t)(i * 3);
	}
	add(&f, &r);
	kick(&f);
	for (i = 0; i < row->num_expected; i++) {
		assert_int_equal(reap(&f), 0);
		check_submitted(&f, row, i);
		fake_backend_complete(&f.fake, 0, 0);
		step(&f);
	}
	assert_int_equal(f.fake.num_pending, 0);
	assert_int_equal(reap(&f), 1);
	if (status_of(&r) != row->status || r.used_len != row->used_len)
		fail_msg("%s: status %u, %u bytes", row->name, status_of(&r), r.used_len);
	check_data(&f, row, &r);
	vblk_queue_stats(f.q, &stats);
	assert_int_equal(stats.errors, row->status != VIRTIO_BLK_S_OK);
	assert_int_equal(stats.read_errors + stats.write_errors + stats.flush_errors +
			 stats.other_errors, stats.errors);
	assert_int_equal(stats.read_ops + stats.write_ops + stats.flush_ops + stats.discard_ops +
			 stats.write_zeroes_ops + stats.other_ops, 1);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(f.notifies, 1);
	assert_int_equal(f.resets, 0);
	end(&f);
}

static void test_requests(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 2 * ARRAY_SIZE(rows); i++) {
		if (i % 2)
			print_message("  %s\n", rows[i / 2].name);
		run_row(&rows[i / 2], i % 2);
	}
}

/* --- errors of the backend --- */

static void test_backend_errors(void **state)
{
	static const struct {
		int error;
		uint8_t status;
	} errors[] = {
		{ -EIO, VIRTIO_BLK_S_IOERR }, { -ENOSPC, VIRTIO_BLK_S_IOERR },
		{ -EPERM, VIRTIO_BLK_S_IOERR }, { -ESHUTDOWN, VIRTIO_BLK_S_IOERR },
		{ -EOPNOTSUPP, VIRTIO_BLK_S_UNSUPP }, { -ENOSYS, VIRTIO_BLK_S_UNSUPP },
	};
	static const struct setup setup = {
		.backend_flags = BACKEND_F_FLUSH | BACKEND_F_WRITE_ZEROES,
		.refuse_features = FEATURE(VIRTIO_BLK_F_FLUSH),
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		struct fixture f;
		struct request r;

		begin(&f, &setup);
		r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
		add(&f, &r);
		kick(&f);
		fake_backend_complete(&f.fake, 0, errors[i].error);
		step(&f);
		assert_int_equal(reap(&f), 1);
		assert_int_equal(status_of(&r), errors[i].status);
		assert_int_equal(r.used_len, 1);

		/* A failed write is not flushed; a failed flush fails the write. */
		r = make(&f, 0, VIRTIO_BLK_T_OUT, 0, 512, 0);
		add(&f, &r);
		kick(&f);
		fake_backend_complete(&f.fake, 0, errors[i].error);
		step(&f);
		assert_int_equal(f.fake.num_pending, 0);
		assert_int_equal(reap(&f), 1);
		assert_int_equal(status_of(&r), errors[i].status);
		r = make(&f, 0, VIRTIO_BLK_T_OUT, 0, 512, 0);
		add(&f, &r);
		kick(&f);
		fake_backend_complete(&f.fake, 0, 0);
		assert_int_equal(f.fake.num_pending, 1);
		assert_int_equal(f.fake.pending[0]->op, BACKEND_FLUSH);
		fake_backend_complete(&f.fake, 0, errors[i].error);
		step(&f);
		assert_int_equal(reap(&f), 1);
		assert_int_equal(status_of(&r), errors[i].status);
		end(&f);
	}
}

/* --- framing: how a request is cut into descriptors means nothing (2.7.4.1) --- */

static const struct {
	const char *name;
	uint32_t out_cuts[20], in_cuts[20];
} shapes[] = {
	{ "as Linux", { 16, 0 }, { 1024, 0 } },
	{ "header and data together", { 0 }, { 1024, 0 } },
	{ "data and status together", { 16, 0 }, { 0 } },
	{ "one piece each way", { 0 }, { 0 } },
	{ "header in two", { 8, 8, 0 }, { 1024, 0 } },
	{ "header in bytes", { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0 }, { 1024, 0 } },
	{ "header ends inside the data", { 7, 300, 0 }, { 1024, 0 } },
	{ "data in odd pieces", { 16, 1, 510, 3, 0 }, { 511, 3, 0 } },
	{ "status after the last byte of data", { 16, 0 }, { 1023, 0 } },
};

static void test_framing(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 2 * ARRAY_SIZE(shapes); i++) {
		struct setup setup = { .packed = i % 2 };
		const uint32_t *out_cuts = shapes[i / 2].out_cuts, *in_cuts = shapes[i / 2].in_cuts;
		struct fixture f;
		struct request r;
		uint32_t k;

		print_message("  %s\n", shapes[i / 2].name);
		begin(&f, &setup);
		r = make(&f, 0, VIRTIO_BLK_T_IN, 3, 0, 1024);
		add_cut(&f, &r, out_cuts, in_cuts);
		run(&f);
		assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
		assert_int_equal(r.used_len, 1025);
		for (k = 0; k < 1024; k++)
			assert_int_equal(r.in[k], fake_pattern(3 * 512 + k));

		r = make(&f, 1, VIRTIO_BLK_T_OUT, 7, 1024, 0);
		for (k = 0; k < 1024; k++)
			r.out[16 + k] = (uint8_t)(k ^ k >> 8);
		add_cut(&f, &r, out_cuts, in_cuts);
		run(&f);
		assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
		assert_int_equal(r.used_len, 1);
		assert_memory_equal(f.fake.disk + 7 * 512, r.out + 16, 1024);

		r = make(&f, 2, VIRTIO_BLK_T_DISCARD, 0, 32, 0);
		put_ranges(&r, &(struct request_row){ .ranges = { { 1, 2, 0 }, { 9, 1, 0 } } });
		add_cut(&f, &r, out_cuts, in_cuts);
		run(&f);
		assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
		assert_int_equal(f.fake.disk[2 * 512], 0xdd);
		assert_int_equal(f.fake.disk[9 * 512], 0xdd);
		assert_int_equal(f.fake.disk[10 * 512], fake_pattern(10 * 512));
		end(&f);
	}
}

/* The most that seg_max allows: 254 segments of data with header and status. */
static void test_seg_max(void **state)
{
	struct setup setup = { 0 };
	uint32_t cuts[256] = { 0 };
	struct fixture f;
	struct request r;
	unsigned int i;

	(void)state;
	begin(&f, &setup);
	for (i = 0; i < VBLK_SEG_MAX; i++)
		cuts[i] = i + 1 == VBLK_SEG_MAX ? 512 - (VBLK_SEG_MAX - 1) * 2 : 2;
	r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
	add_cut(&f, &r, (const uint32_t[]){ 16, 0 }, cuts);
	run(&f);
	assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
	assert_int_equal(r.in[511], fake_pattern(511));
	end(&f);
}

static void test_short_header(void **state)
{
	struct setup setup = { 0 };
	struct fixture f;
	struct request r;
	uint32_t len;

	(void)state;
	begin(&f, &setup);
	for (len = 1; len < 16; len++) {
		r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
		r.out_len = len;
		add(&f, &r);
		run(&f);
		assert_int_equal(status_of(&r), VIRTIO_BLK_S_IOERR);
		assert_int_equal(r.used_len, 1);
	}
	/* No header at all. */
	r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
	r.out_len = 0;
	add(&f, &r);
	run(&f);
	assert_int_equal(status_of(&r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(f.fake.submitted, 0);
	assert_int_equal(f.resets, 0);
	end(&f);
}

/* Requests take turns in one slot of the pool: nothing of one is left for the next. */
static void test_slot_reuse(void **state)
{
	static const struct request_row zeroes = { .ranges = { { 8, 8, 1 }, { 32, 8, 1 } } };
	struct setup setup = { 0 };
	struct fixture f;
	struct request r;

	(void)state;
	begin(&f, &setup);
	r = make(&f, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, 0);
	put_ranges(&r, &zeroes);
	add(&f, &r);
	run(&f);
	assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
	assert_int_equal(f.fake.submitted, 2);
	r = make(&f, 0, VIRTIO_BLK_T_OUT, 8, 512, 0);
	memset(r.out + 16, 0x77, 512);
	add(&f, &r);
	kick(&f);
	assert_int_equal(f.fake.num_pending, 1);
	assert_int_equal(f.fake.pending[0]->flags, 0);
	run(&f);
	assert_int_equal(f.fake.submitted, 3);
	r = make(&f, 0, VIRTIO_BLK_T_IN, 8, 0, 1024);
	add(&f, &r);
	run(&f);
	assert_int_equal(f.fake.submitted, 4);
	assert_int_equal(r.used_len, 1025);
	assert_int_equal(r.in[511], 0x77);
	assert_int_equal(r.in[512], 0);
	end(&f);
}

/* --- batches, order, notifications --- */

static void test_out_of_order(void **state)
{
	unsigned int packed, i;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct request r[NUM];
		struct fixture f;

		begin(&f, &setup);
		for (i = 0; i < NUM; i++) {
			r[i] = make(&f, i, VIRTIO_BLK_T_IN, i * 3, 0, 512);
			add(&f, &r[i]);
		}
		kick(&f);
		assert_int_equal(f.fake.num_pending, NUM);
		/* From the middle outwards, every third one failing. */
		for (i = 0; f.fake.num_pending; i++)
			fake_backend_complete(&f.fake, f.fake.num_pending / 2, i % 3 ? 0 : -EIO);
		assert_int_equal(f.notifies, 0);
		assert_int_equal(reap(&f), 0);
		step(&f);
		assert_int_equal(f.notifies, 1);
		assert_int_equal(reap(&f), NUM);
		for (i = 0; i < NUM; i++) {
			if (status_of(&r[i]) == VIRTIO_BLK_S_OK)
				assert_int_equal(r[i].in[9], fake_pattern(i * 3 * 512 + 9));
			else
				assert_int_equal(r[i].in[9], UNTOUCHED);
		}
		end(&f);
	}
}

/* While the loop is busy no kicks are wanted; before it sleeps they are again. */
static void test_notifications(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct vblk_queue_stats stats;
		struct request r[3];
		struct fixture f;

		begin(&f, &setup);
		r[0] = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
		r[1] = make(&f, 1, VIRTIO_BLK_T_IN, 1, 0, 512);
		r[2] = make(&f, 2, VIRTIO_BLK_T_IN, 2, 0, 512);
		add(&f, &r[0]);
		assert_true(sim_needs_kick(f.d));
		kick(&f);
		add(&f, &r[1]);
		assert_false(sim_needs_kick(f.d));
		step(&f); /* found without a kick */
		assert_int_equal(f.fake.num_pending, 2);
		settle(&f);
		add(&f, &r[2]);
		assert_true(sim_needs_kick(f.d));
		kick(&f);
		assert_int_equal(f.fake.num_pending, 3);

		/* The driver wants no interrupts: none come. */
		sim_disable_callbacks(f.d);
		if (!packed)
			f.d->avail->ring[NUM] = (uint16_t)(f.d->used_idx - 1);
		while (f.fake.num_pending)
			fake_backend_complete(&f.fake, 0, 0);
		step(&f);
		assert_int_equal(f.notifies, 0);
		assert_int_equal(reap(&f), 3);
		vblk_queue_stats(f.q, &stats);
		assert_int_equal(stats.kicks, 2);
		assert_int_equal(stats.read_ops, 3);
		assert_int_equal(stats.read_bytes, 3 * 512);
		end(&f);
	}
}

/* One request from the ring to its status, which is returned. */
static uint8_t carry_out(struct fixture *f, uint32_t type, uint64_t sector, uint32_t out_data,
			 uint32_t in_data)
{
	struct request r = make(f, 0, type, sector, out_data, in_data);

	f->fake.automatic = true;
	add(f, &r);
	kick(f);
	step(f);
	assert_int_equal(reap(f), 1);
	f->fake.automatic = false;
	return status_of(&r);
}

/* The disk grows while a queue runs: what was beyond its end is on it then. */
static void test_grow(void **state)
{
	const struct setup setup = { .block_size = 4096 };
	struct fixture f;

	(void)state;
	begin(&f, &setup);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_IN, DISK_SECTORS, 0, 4096),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(f.fake.submitted, 0);

	assert_int_equal(vblk_device_set_capacity(&f.dev, DISK_BYTES), -EINVAL);
	assert_int_equal(vblk_device_set_capacity(&f.dev, DISK_BYTES - 4096), -EINVAL);
	assert_int_equal(vblk_device_set_capacity(&f.dev, DISK_BYTES + 4095), -EINVAL);
	assert_int_equal(f.dev.capacity, DISK_SECTORS);

	f.fake.common.info.size = 2 * DISK_BYTES + 4095;
	f.fake.disk = realloc(f.fake.disk, 2 * DISK_BYTES + 4095);
	assert_non_null(f.fake.disk);
	assert_int_equal(vblk_device_set_capacity(&f.dev, f.fake.common.info.size), 0);
	assert_int_equal(f.dev.capacity, 2 * DISK_SECTORS);
	assert_int_equal(le64toh(f.dev.config.capacity), 2 * DISK_SECTORS);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_OUT, DISK_SECTORS, 4096, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_IN, 2 * DISK_SECTORS - 8, 0, 4096),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_IN, 2 * DISK_SECTORS, 0, 4096),
			 VIRTIO_BLK_S_IOERR);
	end(&f);
}

static void test_read_only_later(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, &(struct setup){ 0 });
	vblk_device_set_read_only(&f.dev, true);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	vblk_device_set_read_only(&f.dev, false);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_OK);
	end(&f);
}

/* Nothing new reaches the storage; what it has already is left to it. */
static void test_failing(void **state)
{
	static const struct {
		uint32_t type, out_data, in_data;
		uint8_t status;
	} table[] = {
		{ VIRTIO_BLK_T_IN, 0, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 512, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_FLUSH, 0, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_DISCARD, 16, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_GET_ID, 0, 20, VIRTIO_BLK_S_OK },
	};
	struct request before;
	struct fixture f;
	unsigned int i;

	(void)state;
	begin(&f, &(struct setup){ 0 });
	before = make(&f, 5, VIRTIO_BLK_T_IN, 0, 0, 512);
	add(&f, &before);
	kick(&f);
	assert_int_equal(f.fake.num_pending, 1);

	vblk_device_set_failing(&f.dev, true);
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		struct request r = make(&f, i, table[i].type, 0, table[i].out_data,
					table[i].in_data);

		add(&f, &r);
		kick(&f);
		assert_int_equal(reap(&f), 1);
		assert_int_equal(status_of(&r), table[i].status);
	}
	assert_int_equal(f.fake.submitted, 1);
	assert_false(before.done);
	fake_backend_complete(&f.fake, 0, 0);
	step(&f);
	assert_int_equal(reap(&f), 1);
	assert_int_equal(status_of(&before), VIRTIO_BLK_S_OK);

	vblk_device_set_failing(&f.dev, false);
	assert_int_equal(carry_out(&f, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	end(&f);
}

/* Every request is timed once, as its own kind, from the ring to its status. */
static void test_latency(void **state)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
	};
	struct histogram_summary took;
	struct request r[4], failing;
	struct fixture f;
	uint64_t before, popped, completing, after;
	unsigned int i;

	(void)state;
	begin(&f, &(struct setup){ 0 });
	before = clock_now_ns();
	for (i = 0; i < 4; i++) {
		r[i] = make(&f, i, types[i], 0, types[i] == VIRTIO_BLK_T_OUT ? 512 : 0,
			    types[i] == VIRTIO_BLK_T_IN ? 512 : 20);
		if (types[i] == VIRTIO_BLK_T_OUT)
			r[i].in_len = 1;
		add(&f, &r[i]);
	}
	kick(&f);
	popped = clock_now_ns();
	settle(&f); /* time passes */
	completing = clock_now_ns();
	assert_int_equal(f.fake.num_pending, 3);
	while (f.fake.num_pending)
		fake_backend_complete(&f.fake, 0, 0);
	step(&f);
	after = clock_now_ns();
	assert_int_equal(reap(&f), 4);

	failing = make(&f, 4, VIRTIO_BLK_T_IN, DISK_SECTORS, 0, 512);
	add(&f, &failing);
	kick(&f);
	assert_int_equal(reap(&f), 1);
	for (i = 0; i < _VBLK_LATENCY_MAX; i++) {
		struct histogram h = { 0 };

		vblk_queue_latency(f.q, (enum vblk_latency)i, &h);
		histogram_summarize(&h, &took);
		assert_int_equal(took.count, i == VBLK_LATENCY_READ ? 2 : 1);
		if (i == VBLK_LATENCY_OTHER) /* GET_ID was done at once */
			assert_in_range(took.max_ns, 0, popped - before);
		else
			assert_in_range(took.max_ns, completing - popped, after - before);
	}
	end(&f);
}

/*
 * A request arrives after the last look at the ring and before the queue asks for
 * kicks: the driver did not kick, so asking has to find it.
 */
struct late {
	struct loop_idle idle;
	struct fixture *f;
	struct request *r;
	bool kick_wanted;
};

static bool late_arm(struct loop_idle *idle)
{
	struct late *late = container_of(idle, struct late, idle);

	if (late->r) {
		add(late->f, late->r);
		late->kick_wanted = sim_needs_kick(late->f->d);
		late->r = NULL;
	}
	return false;
}

static void test_late_arrival(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct request first, second;
		struct late late = { .idle.arm = late_arm };
		struct fixture f;

		begin(&f, &setup);
		late.f = &f;
		/* What was added last is asked first: before the queue. */
		loop_idle_add(f.loop, &late.idle);
		first = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
		second = make(&f, 1, VIRTIO_BLK_T_IN, 1, 0, 512);
		add(&f, &first);
		assert_true(sim_needs_kick(f.d));
		kick(&f);
		late.r = &second;
		settle(&f);
		assert_null(late.r);
		assert_false(late.kick_wanted);
		assert_int_equal(f.pending_asleep, 2);
		run(&f);
		assert_true(first.done && second.done);
		loop_idle_del(f.loop, &late.idle);
		end(&f);
	}
}

/* --- start, stop, broken rings --- */

static void test_stop_drains(void **state)
{
	unsigned int packed, i;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct virtqueue_state vs, running;
		struct vblk_queue_stats stats;
		struct error e = ERROR_INIT;
		struct request r[4];
		struct fixture f;

		begin(&f, &setup);
		for (i = 0; i < 2; i++) {
			r[i] = make(&f, i, VIRTIO_BLK_T_IN, 0, 0, 512);
			add(&f, &r[i]);
		}
		kick(&f);
		vblk_queue_state(f.q, &running);
		assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), 0);
		assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), -EBUSY);
		assert_int_equal(vblk_queue_start(f.q, &f.start, &e), -EBUSY);
		for (; i < 4; i++) { /* too late: stay in the ring */
			r[i] = make(&f, i, VIRTIO_BLK_T_IN, 0, 0, 512);
			add(&f, &r[i]);
		}
		kick(&f);
		assert_int_equal(f.fake.num_pending, 2);
		assert_int_equal(f.stops, 0);
		fake_backend_complete(&f.fake, 1, 0);
		step(&f);
		vblk_queue_stats(f.q, &stats);
		assert_int_equal(stats.in_flight, 1);
		assert_int_equal(f.stops, 0);
		fake_backend_complete(&f.fake, 0, 0);
		step(&f);
		assert_int_equal(f.stops, 1);
		assert_int_equal(reap(&f), 2);
		vblk_queue_state(f.q, &vs);
		assert_int_equal(vs.avail_idx, 2);
		assert_int_equal(running.avail_idx, 2);

		/* Goes on where it stopped, without a kick. */
		f.start.state = vs;
		assert_int_equal(vblk_queue_start(f.q, &f.start, &e), 0);
		assert_int_equal(f.fake.num_pending, 2);
		run(&f);
		assert_true(r[2].done && r[3].done);
		f.stops = 0;
		end(&f);
	}
}

/* A stop that is taken back: what came meanwhile is served, nobody hears of a stop. */
static void test_resume(void **state)
{
	unsigned int i, packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct virtqueue_state vs;
		struct request r[4];
		struct fixture f;

		begin(&f, &setup);
		assert_false(vblk_queue_resume(f.q)); /* it runs */
		for (i = 0; i < 2; i++) {
			r[i] = make(&f, i, VIRTIO_BLK_T_IN, 0, 0, 512);
			add(&f, &r[i]);
		}
		kick(&f);
		assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), 0);
		fake_backend_complete(&f.fake, 0, 0);
		step(&f);
		for (; i < 4; i++) {
			r[i] = make(&f, i, VIRTIO_BLK_T_IN, 0, 0, 512);
			add(&f, &r[i]);
		}
		kick(&f);
		assert_int_equal(f.fake.num_pending, 1);
		assert_true(vblk_queue_resume(f.q));
		assert_int_equal(f.fake.num_pending, 3);
		assert_false(vblk_queue_resume(f.q));
		run(&f);
		for (i = 0; i < 4; i++)
			assert_true(r[i].done);
		assert_int_equal(f.stops, 0);
		vblk_queue_state(f.q, &vs);
		assert_int_equal(vs.avail_idx, 4);

		/* Too late: it has stopped. */
		assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), 0);
		assert_int_equal(f.stops, 1);
		assert_false(vblk_queue_resume(f.q));
		f.stops = 0;
		end(&f);
	}
}

/* An error of the daemon's own flush is the driver's to hear, once. */
static void test_owed_flush_error(void **state)
{
	struct setup setup = { .packed = false };
	struct request write, flush[3];
	struct fixture f;
	unsigned int i;

	(void)state;
	begin(&f, &setup);
	vblk_device_owe_flush_error(&f.dev);
	vblk_device_owe_flush_error(&f.dev);
	write = make(&f, 0, VIRTIO_BLK_T_OUT, 0, 512, 0);
	add(&f, &write);
	for (i = 0; i < 3; i++) {
		flush[i] = make(&f, 1 + i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		add(&f, &flush[i]);
	}
	kick(&f);
	run(&f);
	assert_int_equal(*write.in, VIRTIO_BLK_S_OK);
	assert_int_equal(*flush[0].in, VIRTIO_BLK_S_IOERR);
	assert_int_equal(*flush[1].in, VIRTIO_BLK_S_OK);
	assert_int_equal(*flush[2].in, VIRTIO_BLK_S_OK);
	end(&f);
}

/* It outlives the daemon: a successor finds it where it was kept, and so does it itself. */
static void test_kept_flush_error(void **state)
{
	struct setup setup = { .packed = true };
	struct request flush[2];
	uint8_t kept = 0;
	struct fixture f;
	unsigned int i;

	(void)state;
	begin(&f, &setup);
	vblk_device_keep_flush_error(&f.dev, &kept);
	vblk_device_owe_flush_error(&f.dev);
	assert_int_equal(kept, 1);
	for (i = 0; i < 2; i++) {
		flush[i] = make(&f, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		add(&f, &flush[i]);
	}
	kick(&f);
	run(&f);
	assert_int_equal(*flush[0].in, VIRTIO_BLK_S_IOERR);
	assert_int_equal(*flush[1].in, VIRTIO_BLK_S_OK);
	assert_int_equal(kept, 0);
	end(&f);
}

static void test_start_checks(void **state)
{
	struct setup setup = { .packed = true };
	struct vblk_queue_start_params p;
	struct vblk_queue *none;
	struct error e = ERROR_INIT;
	struct virtqueue_state vs;
	struct fixture f;

	(void)state;
	begin(&f, &setup);
	assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), 0);
	assert_int_equal(f.stops, 1);
	vblk_queue_state(f.q, &vs);
	assert_int_equal(vs.avail_idx, 0);
	assert_true(vs.avail_wrap && vs.used_wrap);

	p = f.start;
	p.features |= FEATURE(VIRTIO_BLK_F_CONFIG_WCE);
	assert_int_equal(vblk_queue_start(f.q, &p, &e), -EINVAL);
	assert_non_null(strstr(e.text, "accepted, not offered"));
	assert_int_equal(vblk_queue_create(&(struct vblk_queue_params){ .max_num = 0 }, &none, &e),
			 -EINVAL);
	p.features = f.start.features & ~FEATURE(VIRTIO_F_VERSION_1);
	assert_int_equal(vblk_queue_start(f.q, &p, &e), -EINVAL);
	p = f.start;
	p.num = NUM * 2;
	assert_int_equal(vblk_queue_start(f.q, &p, &e), -EINVAL);
	p = f.start;
	p.desc = 16;
	assert_int_equal(vblk_queue_start(f.q, &p, &e), -EFAULT);
	assert_non_null(strstr(e.text, "queue 3: descriptor ring at 0x10"));
	vblk_queue_kick(f.q);
	step(&f);
	f.stops = 0;
	end(&f);
}

/* The driver breaks the ring: requests in flight end quietly, then a reset helps. */
static void test_broken(void **state)
{
	unsigned int packed;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct sim_segment readable = { 0, 16, false };
		struct vblk_queue_stats stats;
		struct error e = ERROR_INIT;
		struct sim_params sim;
		struct request r;
		struct fixture f;

		begin(&f, &setup);
		r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
		add(&f, &r);
		kick(&f);
		readable.iova = r.out_iova;
		assert_true(sim_add(f.d, &readable, 1, false, &r));
		kick(&f);
		assert_int_equal(f.resets, 1);
		assert_string_equal(f.reason, "request without a byte for its status");
		fake_backend_complete(&f.fake, 0, 0);
		step(&f);
		settle(&f);
		kick(&f);
		assert_int_equal(f.resets, 1);
		assert_int_equal(f.notifies, 0);
		assert_int_equal(reap(&f), 0);
		vblk_queue_stats(f.q, &stats);
		assert_true(stats.broken);
		assert_int_equal(stats.in_flight, 0);

		/* Reset: a fresh ring, and all is well. */
		assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), 0);
		assert_int_equal(f.stops, 1);
		sim = f.d->params;
		sim_destroy(f.d);
		f.d = sim_create(&sim);
		f.start.state = VIRTQUEUE_STATE_INIT;
		f.start.iotlb = f.d->iotlb;
		assert_int_equal(vblk_queue_start(f.q, &f.start, &e), 0);
		r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
		add(&f, &r);
		run(&f);
		assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
		vblk_queue_stats(f.q, &stats);
		assert_false(stats.broken);
		f.stops = 0;
		end(&f);
	}
}

/* Stopped between a completion and the end of its batch: the driver gets it first. */
static void test_stop_in_batch(void **state)
{
	struct setup setup = { 0 };
	struct fixture f;
	struct request r;

	(void)state;
	begin(&f, &setup);
	r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
	add(&f, &r);
	kick(&f);
	fake_backend_complete(&f.fake, 0, 0);
	assert_int_equal(reap(&f), 0);
	assert_int_equal(vblk_queue_stop(f.q, on_stopped, &f), 0);
	assert_int_equal(f.stops, 1);
	assert_int_equal(f.notifies, 1);
	assert_int_equal(reap(&f), 1);
	step(&f);
	assert_int_equal(f.notifies, 1);
	f.stops = 0;
	end(&f);
}

static void destroy_in_callback(struct vblk_queue *q, void *opaque)
{
	struct fixture *f = opaque;

	f->stops++;
	vblk_queue_destroy(q);
}

static void test_destroy_when_stopped(void **state)
{
	struct setup setup = { 0 };
	struct fixture f;
	struct request r;

	(void)state;
	begin(&f, &setup);
	r = make(&f, 0, VIRTIO_BLK_T_IN, 0, 0, 512);
	add(&f, &r);
	kick(&f);
	assert_int_equal(vblk_queue_stop(f.q, destroy_in_callback, &f), 0);
	fake_backend_complete(&f.fake, 0, 0);
	step(&f);
	assert_int_equal(f.stops, 1);
	assert_int_equal(reap(&f), 1);
	sim_destroy(f.d);
	fake_backend_exit(&f.fake);
	loop_destroy(f.loop);
}

/* Many requests through a small ring, the backend completing by itself. */
static void test_traffic(void **state)
{
	unsigned int packed, i, sent = 0, got = 0;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct request r[NUM];
		struct fixture f;

		begin(&f, &setup);
		f.fake.automatic = true;
		for (i = 0; i < NUM; i++)
			r[i].done = true;
		for (sent = 0, got = 0; got < 5000;) {
			for (i = 0; i < NUM && sent < 5000; i++) {
				uint64_t sector = (uint64_t)sent * 7 % (DISK_SECTORS - 8);

				if (!r[i].done)
					continue;
				r[i] = make(&f, i, VIRTIO_BLK_T_IN, sector, 0,
					    512 * (1 + sent % 8));
				add(&f, &r[i]);
				sent++;
			}
			if (sim_needs_kick(f.d))
				vblk_queue_kick(f.q);
			step(&f);
			for (i = 0; i < NUM; i++)
				r[i].done = false;
			got += reap(&f);
			for (i = 0; i < NUM; i++)
				if (r[i].done)
					assert_int_equal(status_of(&r[i]), VIRTIO_BLK_S_OK);
		}
		assert_int_equal(sent, got);
		end(&f);
	}
}

/* --- features and configuration space --- */

static void test_features(void **state)
{
	const uint64_t always = FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_F_ACCESS_PLATFORM) |
		FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX) |
		FEATURE(VIRTIO_BLK_F_SEG_MAX) | FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
		FEATURE(VIRTIO_BLK_F_TOPOLOGY);
	const uint64_t all = always | FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_DISCARD) |
		FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
	const struct {
		const char *name;
		uint32_t flags;
		unsigned int queues;
		bool packed, read_only;
		uint64_t features;
	} table[] = {
		{ "everything", ALL_FLAGS, 1, false, false, all },
		{ "packed, queues", ALL_FLAGS, 4, true, false,
		  all | FEATURE(VIRTIO_F_RING_PACKED) | FEATURE(VIRTIO_BLK_F_MQ) },
		{ "nothing", 0, 1, false, false, always },
		{ "flush", BACKEND_F_FLUSH, 1, false, false, always | FEATURE(VIRTIO_BLK_F_FLUSH) },
		{ "read-only by option", ALL_FLAGS, 1, false, true,
		  always | FEATURE(VIRTIO_BLK_F_RO) },
		{ "read-only storage", ALL_FLAGS | BACKEND_F_READ_ONLY, 1, false, false,
		  always | FEATURE(VIRTIO_BLK_F_RO) },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		struct backend_info info = { .size = DISK_BYTES, .block_size = 512,
			.preferred_block = 4096, .flags = table[i].flags };
		struct vblk_device_params p = { .info = &info, .num_queues = table[i].queues,
			.queue_size = 256, .packed = table[i].packed,
			.read_only = table[i].read_only };
		struct vblk_device dev;
		struct error e = ERROR_INIT;

		assert_int_equal(vblk_device_init(&dev, &p, &e), 0);
		if (dev.features != table[i].features)
			fail_msg("%s: 0x%llx instead of 0x%llx", table[i].name,
				 (unsigned long long)dev.features,
				 (unsigned long long)table[i].features);
	}
}

static void test_config(void **state)
{
	struct backend_info info = { .size = 3u << 20, .block_size = 512, .preferred_block = 65536,
		.max_discard = 1000000, .flags = ALL_FLAGS };
	struct vblk_device_params p = { .info = &info, .num_queues = 4, .queue_size = 128 };
	struct virtio_blk_config *c;
	struct vblk_device dev;
	struct error e = ERROR_INIT;

	(void)state;
	assert_int_equal(vblk_device_init(&dev, &p, &e), 0);
	c = &dev.config;
	assert_int_equal(le64toh(c->capacity), 6144);
	assert_int_equal(le32toh(c->size_max), 0);
	assert_int_equal(le32toh(c->seg_max), 126);
	assert_int_equal(le32toh(c->blk_size), 512);
	assert_int_equal(c->physical_block_exp, 3); /* 4096 */
	assert_int_equal(c->alignment_offset, 0);
	assert_int_equal(le16toh(c->min_io_size), 8); /* logical blocks */
	assert_int_equal(le32toh(c->opt_io_size), 128);
	assert_int_equal(c->wce, 0);
	assert_int_equal(le16toh(c->num_queues), 4);
	assert_int_equal(le32toh(c->max_discard_sectors), 1000000 / 512);
	assert_int_equal(le32toh(c->max_discard_seg), VBLK_RANGES_MAX);
	assert_int_equal(le32toh(c->discard_sector_alignment), 1);
	assert_int_equal(le32toh(c->max_write_zeroes_sectors), 1u << 21); /* no limit given */
	assert_int_equal(le32toh(c->max_write_zeroes_seg), VBLK_RANGES_MAX);
	assert_int_equal(c->write_zeroes_may_unmap, 1);

	/* 4096-byte blocks: limits are whole blocks, nothing larger is physical. */
	p.block_size = 4096;
	info.preferred_block = 4096;
	p.queue_size = 1024;
	assert_int_equal(vblk_device_init(&dev, &p, &e), 0);
	assert_int_equal(le32toh(c->blk_size), 4096);
	assert_int_equal(c->physical_block_exp, 0);
	assert_int_equal(le16toh(c->min_io_size), 1);
	assert_int_equal(le32toh(c->opt_io_size), 0);
	assert_int_equal(le32toh(c->seg_max), VBLK_SEG_MAX);
	assert_int_equal(le32toh(c->max_discard_sectors), 1000000 / 4096 * 8);
	assert_int_equal(le32toh(c->discard_sector_alignment), 8);
	assert_false(dev.features & FEATURE(VIRTIO_BLK_F_SIZE_MAX));

	/* A limit on requests bounds segments and their size; one always remains. */
	p.max_request = 131072;
	assert_int_equal(vblk_device_init(&dev, &p, &e), 0);
	assert_true(dev.features & FEATURE(VIRTIO_BLK_F_SIZE_MAX));
	assert_int_equal(le32toh(c->seg_max) * le32toh(c->size_max), 131072);
	p.max_request = 1;
	assert_int_equal(vblk_device_init(&dev, &p, &e), 0);
	assert_int_equal(le32toh(c->seg_max), 1);
}

static void test_device_checks(void **state)
{
	const struct {
		const char *name;
		uint64_t size;
		uint32_t backend_block, block;
		unsigned int queues, queue_size;
		int err;
	} table[] = {
		{ "good", DISK_BYTES, 512, 0, 1, 256, 0 },
		{ "4k blocks wanted", DISK_BYTES, 512, 4096, 1, 256, 0 },
		{ "no queues", DISK_BYTES, 512, 0, 0, 256, -EINVAL },
		{ "too many queues", DISK_BYTES, 512, 0, 65536, 256, -EINVAL },
		{ "queue size 0", DISK_BYTES, 512, 0, 1, 0, -EINVAL },
		{ "queue size too large", DISK_BYTES, 512, 0, 1, 32769, -EINVAL },
		{ "block size 256", DISK_BYTES, 512, 256, 1, 256, -EINVAL },
		{ "block size 3000", DISK_BYTES, 512, 3000, 1, 256, -EINVAL },
		{ "block size 8192", DISK_BYTES, 512, 8192, 1, 256, -EINVAL },
		{ "smaller than the backend's", DISK_BYTES, 4096, 512, 1, 256, -EINVAL },
		{ "backend's block size 0", DISK_BYTES, 0, 0, 1, 256, -EINVAL },
		{ "backend's block size 1", DISK_BYTES, 1, 0, 1, 256, -EINVAL },
		{ "size zero", 0, 512, 0, 1, 256, -EINVAL },
		{ "half a block", DISK_BYTES + 256, 512, 0, 1, 256, -EINVAL },
		{ "not whole 4k blocks", DISK_BYTES + 512, 512, 4096, 1, 256, -EINVAL },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		struct backend_info info = { .size = table[i].size, .preferred_block = 4096,
					     .block_size = table[i].backend_block };
		struct vblk_device_params p = { .info = &info, .num_queues = table[i].queues,
			.queue_size = table[i].queue_size, .block_size = table[i].block };
		struct vblk_device dev;
		struct error e = ERROR_INIT;

		if (vblk_device_init(&dev, &p, &e) != table[i].err)
			fail_msg("%s: %s", table[i].name, e.text);
		assert_int_equal(!!e.text[0], !!table[i].err);
	}
}

/* --- a predecessor that was killed --- */

static void restart_with_log(struct fixture *f, void *region, struct inflight **ret_log)
{
	struct error e = ERROR_INIT;

	assert_int_equal(vblk_queue_stop(f->q, on_stopped, f), 0);
	f->stops = 0;
	assert_int_equal(inflight_create(region, inflight_region_bytes(NUM), NUM, ret_log, &e), 0);
	f->start.inflight = *ret_log;
	assert_int_equal(vblk_queue_start(f->q, &f->start, &e), 0);
	settle(f);
}

/* Two writes, a flush, a read and a discard in flight; the second write completes. */
static void leave_in_flight(struct fixture *f, struct request *r)
{
	const struct virtio_blk_discard_write_zeroes ranges[2] = {
		{ .sector = htole64(64), .num_sectors = htole32(8) },
		{ .sector = htole64(80), .num_sectors = htole32(16) },
	};
	unsigned int i;

	r[0] = make(f, 0, VIRTIO_BLK_T_OUT, 0, 512, 0);
	r[1] = make(f, 1, VIRTIO_BLK_T_OUT, 8, 1024, 0);
	r[2] = make(f, 2, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	r[3] = make(f, 3, VIRTIO_BLK_T_IN, 16, 0, 512);
	r[4] = make(f, 4, VIRTIO_BLK_T_DISCARD, 0, sizeof(ranges), 0);
	memcpy(r[4].out + 16, ranges, sizeof(ranges));
	for (i = 0; i < 5; i++)
		add(f, &r[i]);
	kick(f);
	assert_int_equal(f->fake.num_pending, 5);
	fake_backend_complete(&f->fake, 1, 0);
	step(f);
	assert_int_equal(reap(f), 1);
	assert_int_equal(status_of(&r[1]), VIRTIO_BLK_S_OK);
}

static void check_prior(struct fixture *f)
{
	static const uint64_t expected[][2] = {
		{ 0, 512 }, { 64 * 512, 8 * 512 }, { 80 * 512, 16 * 512 },
	};
	struct error e = ERROR_INIT;

	assert_int_equal(vblk_prior_writes(&f->start, &f->fake.common, &e), 0);
	assert_int_equal(f->fake.num_prior, ARRAY_SIZE(expected));
	assert_memory_equal(f->fake.prior, expected, sizeof(expected));
}

/* Kill a queue: it touches the ring no more, and what it had is dropped. */
static void bury(struct fixture *f)
{
	f->q->vq.broken = true;
	while (f->fake.num_pending) {
		fake_backend_complete(&f->fake, 0, 0);
		step(f);
	}
	assert_int_equal(vblk_queue_stop(f->q, on_stopped, f), 0);
	vblk_queue_destroy(f->q);
	fake_backend_exit(&f->fake);
}

static void test_recovery(void **state)
{
	static uint8_t region[64 << 10] __attribute__((aligned(INFLIGHT_ALIGN)));
	static const enum backend_op order[] = { BACKEND_WRITE, BACKEND_FLUSH, BACKEND_READ,
						 BACKEND_DISCARD, BACKEND_READ };
	unsigned int packed, i;

	(void)state;
	for (packed = 0; packed < 2; packed++) {
		struct setup setup = { .packed = packed };
		struct vblk_queue_params params;
		struct error e = ERROR_INIT;
		struct vblk_queue_stats stats;
		struct inflight *log, *log2;
		struct request r[6];
		struct fixture f;

		memset(region, 0, sizeof(region));
		begin(&f, &setup);
		restart_with_log(&f, region, &log);
		leave_in_flight(&f, r);
		bury(&f);

		/* The driver goes on, and a new queue begins with what is in the region. */
		r[5] = make(&f, 5, VIRTIO_BLK_T_IN, 24, 0, 512);
		add(&f, &r[5]);
		assert_int_equal(inflight_create(region, sizeof(region), NUM, &log2, &e), 0);
		f.start.inflight = log2;
		f.start.state = VIRTQUEUE_STATE_INIT;
		check_prior(&f);
		fake_backend_init(&f.fake, f.loop, DISK_BYTES, 512, ALL_FLAGS);
		params = (struct vblk_queue_params){
			.dev = &f.dev, .index = 3, .max_num = NUM, .loop = f.loop,
			.backend = &f.fake.queue, .transport = &transport_ops, .opaque = &f,
		};
		assert_int_equal(vblk_queue_create(&params, &f.q, &e), 0);
		if (vblk_queue_start(f.q, &f.start, &e))
			fail_msg("%s", e.text);
		assert_int_equal(f.fake.num_pending, ARRAY_SIZE(order));
		for (i = 0; i < ARRAY_SIZE(order); i++) {
			bool writes = order[i] == BACKEND_WRITE || order[i] == BACKEND_DISCARD;

			assert_int_equal(f.fake.pending[i]->op, order[i]);
			assert_int_equal(f.fake.pending[i]->flags & BACKEND_REQ_RESUBMIT,
					 writes ? BACKEND_REQ_RESUBMIT : 0);
		}
		run(&f);
		for (i = 0; i < ARRAY_SIZE(r); i++)
			assert_int_equal(status_of(&r[i]), VIRTIO_BLK_S_OK);
		assert_int_equal(sim_outstanding(f.d), 0);
		vblk_queue_stats(f.q, &stats);
		assert_int_equal(stats.in_flight, 0);
		f.stops = 0;
		end(&f);
		inflight_destroy(log);
		inflight_destroy(log2);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_features),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_device_checks),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_backend_errors),
		cmocka_unit_test(test_framing),
		cmocka_unit_test(test_seg_max),
		cmocka_unit_test(test_short_header),
		cmocka_unit_test(test_slot_reuse),
		cmocka_unit_test(test_out_of_order),
		cmocka_unit_test(test_notifications),
		cmocka_unit_test(test_latency),
		cmocka_unit_test(test_grow),
		cmocka_unit_test(test_read_only_later),
		cmocka_unit_test(test_failing),
		cmocka_unit_test(test_late_arrival),
		cmocka_unit_test(test_stop_drains),
		cmocka_unit_test(test_start_checks),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_stop_in_batch),
		cmocka_unit_test(test_resume),
		cmocka_unit_test(test_owed_flush_error),
		cmocka_unit_test(test_kept_flush_error),
		cmocka_unit_test(test_destroy_when_stopped),
		cmocka_unit_test(test_recovery),
		cmocka_unit_test(test_traffic),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
