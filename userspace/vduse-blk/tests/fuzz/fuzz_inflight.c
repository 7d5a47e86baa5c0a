// SPDX-License-Identifier: MIT
/*
 * fuzz_inflight.c: logs with any content, beside rings with any content, and both
 * changing in between.
 *
 * The first FUZZ_REGION bytes are the region of the log; the rest is what
 * fuzz_rings.h makes a ring of. Each round is a device that takes over what the
 * last one left, works for some steps and is gone without a word. Whatever the
 * region says, memory that is handed out is mapped, and no more chains are taken
 * than the ring holds; a region that is refused is refused with a reason.
 *
 * An input whose second byte of the region's version is 0xff begins with an empty
 * log, so that logs which the device itself wrote are met, too.
 */
#include "tests/fuzz/fuzz_rings.h"
#include "virtio/inflight_internal.h"

#define FUZZ_REGION	576u
#define IOV_MAX_	40u
#define ROUNDS		4u

struct elems {
	struct virtqueue_elem e[FUZZ_NUM];
	struct iovec iov[FUZZ_NUM][IOV_MAX_];
	unsigned int busy;
};

static void check_memory(const struct fuzz_rings *f, const struct virtqueue_elem *e)
{
	unsigned int i;

	fuzz_require(e->out_num + e->in_num >= 1 && e->out_num + e->in_num <= IOV_MAX_);
	for (i = 0; i < e->out_num + e->in_num; i++)
		fuzz_rings_check(f, &e->iov[i], i >= e->out_num);
	fuzz_require(e->id < f->params.num && e->ndesc >= 1 && e->ndesc <= f->params.num);
}

/* Half of the pokes go to the log. */
static void poke(struct fuzz_rings *f, uint8_t *region)
{
	if (f->next_poke < f->num_pokes && f->pokes[f->next_poke][0] & 0x8000) {
		memcpy(region + f->pokes[f->next_poke][0] % (FUZZ_REGION / 2) * 2,
		       &f->pokes[f->next_poke][1], 2);
		f->next_poke++;
		return;
	}
	fuzz_rings_poke(f);
}

static void push_some(struct fuzz_rings *f, struct virtqueue *vq, struct elems *el)
{
	unsigned int n = fuzz_random(f) % (el->busy + 1);

	while (n--) {
		struct virtqueue_elem *e = &el->e[--el->busy];

		virtqueue_push(vq, e, e->in_bytes);
	}
}

static void live(struct fuzz_rings *f, uint8_t *region, struct inflight *log)
{
	static struct elems el;
	struct error e = ERROR_INIT;
	unsigned int step, pending;
	struct virtqueue vq;
	int got = 0;

	el.busy = 0;
	if (virtqueue_init(&vq, &f->params, &e)) {
		fuzz_require(e.text[0]);
		return;
	}
	pending = inflight_pending(log);
	fuzz_require(pending <= f->params.num);
	for (step = 0; step < 16; step++) {
		while (el.busy < f->params.num) {
			el.e[el.busy].iov = el.iov[el.busy];
			el.e[el.busy].max_iov = IOV_MAX_;
			got = virtqueue_pop(&vq, &el.e[el.busy]);
			if (got <= 0)
				break;
			check_memory(f, &el.e[el.busy++]);
		}
		fuzz_require((got < 0) == !!virtqueue_error(&vq));
		poke(f, region);
		push_some(f, &vq, &el);
		if (fuzz_random(f) % 4)
			virtqueue_commit(&vq);
		virtqueue_enable_notify(&vq);
	}
	/* Its death: only the iotlb, which is ours, must not be left holding. */
	while (el.busy)
		iotlb_drop(f->tlb, el.e[--el.busy].hold);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct inflight *log;
	struct fuzz_rings f;
	unsigned int round;
	uint8_t *region;

	if (size < FUZZ_REGION)
		return 0;
	region = aligned_alloc(INFLIGHT_ALIGN, FUZZ_REGION);
	fuzz_require(region && inflight_region_bytes(FUZZ_NUM) <= FUZZ_REGION);
	memcpy(region, data, FUZZ_REGION);
	if (region[9] == 0xff)
		memset(region, 0, FUZZ_REGION);
	if (!fuzz_rings_begin(&f, data + FUZZ_REGION, size - FUZZ_REGION))
		goto out;
	for (round = 0; round < ROUNDS; round++) {
		fuzz_require(!inflight_create(region, FUZZ_REGION, FUZZ_NUM, &log, NULL));
		f.params.inflight = log;
		live(&f, region, log);
		inflight_destroy(log);
	}
	fuzz_rings_end(&f);
out:
	free(region);
	return 0;
}
