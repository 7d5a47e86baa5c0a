// SPDX-License-Identifier: MIT
/*
 * fuzz_virtio_blk.c: a whole queue, from ring memory with any content to the
 * backend, which checks what it gets (fake_backend.c), and back.
 *
 * Of the first byte, bits 3 to 7 choose the disk: read-only, 4096-byte blocks, no
 * FLUSH accepted, no FUA, and completions with errors.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "base/log.h"
#include "tests/fake_backend.h"
#include "tests/fuzz/fuzz_rings.h"
#include "virtio/virtio_blk.h"

#define FEATURE(bit)	(1ull << (bit))
#define DISK_BYTES	16384u

static struct loop *loop;

static void stop_loop(struct loop_hook *hook)
{
	(void)hook;
	loop_stop(loop);
}

static void step(void)
{
	static struct loop_hook hook = { .run = stop_loop };

	loop_hook_schedule(loop, &hook);
	fuzz_require(!loop_run(loop));
}

static unsigned int resets, stops;

static void on_notify(void *opaque, unsigned int index)
{
	(void)opaque;
	(void)index;
}

static void on_needs_reset(void *opaque, unsigned int index, const char *reason)
{
	(void)opaque;
	(void)index;
	fuzz_require(reason && *reason);
	resets++;
}

static const struct vblk_transport_ops transport_ops = { on_notify, on_needs_reset };

static void on_stopped(struct vblk_queue *q, void *opaque)
{
	(void)q;
	(void)opaque;
	stops++;
}

static uint64_t accepted(const struct fuzz_rings *f, const struct vblk_device *dev)
{
	uint64_t features = dev->features;

	if (!f->params.packed)
		features &= ~FEATURE(VIRTIO_F_RING_PACKED);
	if (!f->params.event_idx)
		features &= ~FEATURE(VIRTIO_RING_F_EVENT_IDX);
	if (!f->params.indirect)
		features &= ~FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
	if (f->flags & 0x20)
		features &= ~FEATURE(VIRTIO_BLK_F_FLUSH);
	return features;
}

static void check_iovs(const struct fuzz_rings *f, const struct backend_request *b)
{
	unsigned int i;

	for (i = 0; i < b->niov; i++)
		fuzz_rings_check(f, &b->iov[i], b->op == BACKEND_READ);
}

static void serve(struct fuzz_rings *f, struct fake_backend *fake, struct vblk_queue *q)
{
	unsigned int i;

	for (i = 0; i < 32; i++) {
		vblk_queue_kick(q);
		step();
		fuzz_rings_poke(f);
		while (fake->num_pending) {
			unsigned int at = fuzz_random(f) % fake->num_pending;

			check_iovs(f, fake->pending[at]);
			fake_backend_complete(fake, at,
					      f->flags & 0x80 && fuzz_random(f) % 2 ? -EIO : 0);
			if (fuzz_random(f) % 4 == 0)
				break;
		}
		step();
	}
}

static void run(struct fuzz_rings *f)
{
	const uint32_t flags = BACKEND_F_FLUSH | BACKEND_F_DISCARD | BACKEND_F_WRITE_ZEROES |
			       (f->flags & 0x40 ? 0 : BACKEND_F_FUA);
	struct vblk_device_params dev_params;
	struct vblk_queue_params params;
	struct vblk_queue_start_params start;
	struct vblk_queue_stats stats;
	struct fake_backend fake;
	struct vblk_device dev;
	struct vblk_queue *q;
	struct error e = ERROR_INIT;

	fake_backend_init(&fake, loop, DISK_BYTES, f->flags & 0x10 ? 4096 : 512, flags);
	dev_params = (struct vblk_device_params){
		.info = &fake.common.info, .num_queues = 1, .queue_size = FUZZ_NUM, .packed = true,
		.read_only = f->flags & 8, .serial = "fuzz",
	};
	fuzz_require(!vblk_device_init(&dev, &dev_params, &e));
	params = (struct vblk_queue_params){
		.dev = &dev, .max_num = FUZZ_NUM, .loop = loop, .backend = &fake.queue,
		.transport = &transport_ops,
	};
	fuzz_require(!vblk_queue_create(&params, &q, &e));
	start = (struct vblk_queue_start_params){
		.features = accepted(f, &dev), .num = f->params.num, .desc = f->params.desc,
		.driver = f->params.driver, .device = f->params.device, .state = f->params.state,
		.iotlb = f->tlb,
	};
	resets = 0;
	stops = 0;
	if (!vblk_queue_start(q, &start, &e)) {
		serve(f, &fake, q);
		fuzz_require(!vblk_queue_stop(q, on_stopped, NULL));
		while (fake.num_pending)
			fake_backend_complete(&fake, 0, 0);
		step();
		fuzz_require(stops == 1);
	}
	vblk_queue_stats(q, &stats);
	fuzz_require(!stats.in_flight && resets <= 1 && stats.broken == (resets == 1));
	vblk_queue_destroy(q);
	fake_backend_exit(&fake);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct loop_params params = { .name = "fuzz" };
	struct fuzz_rings f;

	if (!loop) {
		/* Every other message is what the fuzzer asked for. */
		log_set_level(_LOG_LEVEL_INVALID);
		fuzz_require(!loop_create(&params, &loop, NULL));
	}
	if (!fuzz_rings_begin(&f, data, size))
		return 0;
	run(&f);
	fuzz_rings_end(&f);
	return 0;
}
