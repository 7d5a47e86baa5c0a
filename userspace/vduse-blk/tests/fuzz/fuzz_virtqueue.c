// SPDX-License-Identifier: MIT
/*
 * fuzz_virtqueue.c: rings with any content, and memory that changes in between.
 *
 * Whatever the ring says, an element's memory lies inside what is mapped, with
 * the permission it needs; a ring hands out no more than it holds; and a broken
 * queue stays broken and says why.
 */
#include "tests/fuzz/fuzz_rings.h"

#define IOV_MAX_	40u

static void check_elem(const struct fuzz_rings *f, const struct virtqueue_elem *e)
{
	uint64_t out = 0, in = 0;
	unsigned int i;

	fuzz_require(e->out_num + e->in_num >= 1 && e->out_num + e->in_num <= IOV_MAX_);
	for (i = 0; i < e->out_num; i++) {
		fuzz_rings_check(f, &e->iov[i], 0);
		out += e->iov[i].iov_len;
	}
	for (; i < e->out_num + e->in_num; i++) {
		fuzz_rings_check(f, &e->iov[i], 1);
		in += e->iov[i].iov_len;
	}
	fuzz_require(out == e->out_bytes && in == e->in_bytes);
	fuzz_require(e->id < f->params.num && e->ndesc >= 1 && e->ndesc <= f->params.num);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtqueue_elem elems[FUZZ_NUM];
	struct iovec iovs[FUZZ_NUM][IOV_MAX_];
	unsigned int busy = 0, step, at;
	struct error e = ERROR_INIT;
	struct virtqueue_state s;
	struct virtqueue vq;
	struct fuzz_rings f;
	int got = 0;

	if (!fuzz_rings_begin(&f, data, size))
		return 0;
	if (virtqueue_init(&vq, &f.params, &e))
		goto out;

	for (step = 0; step < 64; step++) {
		if (fuzz_random(&f) % 4 == 0)
			iotlb_invalidate(f.tlb, UINT64_MAX, UINT64_MAX); /* maps the rings again */
		while (busy < f.params.num) {
			elems[busy].iov = iovs[busy];
			elems[busy].max_iov = IOV_MAX_;
			got = virtqueue_pop(&vq, &elems[busy]);
			if (got <= 0)
				break;
			if (!busy)
				virtqueue_disable_notify(&vq);
			check_elem(&f, &elems[busy++]);
		}
		fuzz_require((got < 0) == !!virtqueue_error(&vq));
		fuzz_rings_poke(&f);
		for (at = fuzz_random(&f) % (busy + 1); at--;) {
			unsigned int which = fuzz_random(&f) % busy;
			struct virtqueue_elem last;

			virtqueue_push(&vq, &elems[which], elems[which].in_bytes);
			/* Keep each element with its own iov array. */
			last = elems[--busy];
			last.iov = elems[which].iov;
			memcpy(iovs[which], iovs[busy], sizeof(iovs[0]));
			elems[which] = last;
		}
		virtqueue_commit(&vq);
		if (!virtqueue_enable_notify(&vq) && f.next_poke == f.num_pokes && !busy)
			break;
	}
	while (busy)
		virtqueue_push(&vq, &elems[--busy], 0);
	virtqueue_commit(&vq);
	virtqueue_state(&vq, &s);
	fuzz_require(!f.params.packed || (s.avail_idx < f.params.num && s.used_idx < f.params.num));
out:
	fuzz_rings_end(&f);
	return 0;
}
