// SPDX-License-Identifier: MIT
/*
 * fake_backend.c: see fake_backend.h.
 */
#include "tests/fake_backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void fake_submit(struct backend_queue *queue, struct backend_request *req)
{
	struct fake_backend *f = container_of(queue, struct fake_backend, queue);
	const struct backend_info *info = &f->common.info;
	const uint32_t flags = info->flags;
	uint64_t bytes = 0;
	unsigned int i;

	assert(req->done);
	switch (req->op) {
	case BACKEND_READ:
		assert(!req->flags);
		break;
	case BACKEND_WRITE:
		assert(!(flags & BACKEND_F_READ_ONLY) &&
		       !(req->flags & ~(BACKEND_REQ_FUA | BACKEND_REQ_RESUBMIT)));
		break;
	case BACKEND_FLUSH:
		assert(flags & BACKEND_F_FLUSH && !req->flags && !req->length);
		break;
	case BACKEND_DISCARD:
		assert(flags & BACKEND_F_DISCARD && !(flags & BACKEND_F_READ_ONLY));
		break;
	case BACKEND_WRITE_ZEROES:
		assert(flags & BACKEND_F_WRITE_ZEROES && !(flags & BACKEND_F_READ_ONLY));
		break;
	default:
		assert(!"operation");
	}
	if (req->op != BACKEND_FLUSH) {
		assert(req->length && req->length <= info->size &&
		       req->offset <= info->size - req->length);
		assert(req->offset % info->block_size == 0 && req->length % info->block_size == 0);
	}
	if (req->op == BACKEND_READ || req->op == BACKEND_WRITE) {
		for (i = 0; i < req->niov; i++) {
			assert(req->iov[i].iov_len);
			bytes += req->iov[i].iov_len;
		}
		assert(bytes >= req->length);
	}
	assert(!(req->flags & BACKEND_REQ_FUA) || flags & BACKEND_F_FUA);
	assert(f->num_pending < FAKE_PENDING_MAX);
	f->pending[f->num_pending++] = req;
	f->submitted++;
	if (f->automatic)
		loop_hook_schedule(queue->loop, &f->hook);
}

static void carry_out(struct fake_backend *f, const struct backend_request *req)
{
	uint64_t at = req->offset, left = req->length;
	unsigned int i;

	switch (req->op) {
	case BACKEND_READ:
	case BACKEND_WRITE:
		for (i = 0; left; i++) {
			size_t n = min((uint64_t)req->iov[i].iov_len, left);

			if (req->op == BACKEND_READ)
				memcpy(req->iov[i].iov_base, f->disk + at, n);
			else
				memcpy(f->disk + at, req->iov[i].iov_base, n);
			at += n;
			left -= n;
		}
		break;
	case BACKEND_DISCARD:
		memset(f->disk + at, 0xdd, left);
		break;
	case BACKEND_WRITE_ZEROES:
		memset(f->disk + at, 0, left);
		break;
	default:
		break;
	}
}

void fake_backend_complete(struct fake_backend *f, unsigned int at, int error)
{
	struct backend_request *req = f->pending[at];

	assert(at < f->num_pending);
	memmove(&f->pending[at], &f->pending[at + 1],
		(f->num_pending - at - 1) * sizeof(f->pending[0]));
	f->num_pending--;
	if (!error)
		carry_out(f, req);
	req->done(req, error);
}

static void complete_all(struct loop_hook *hook)
{
	struct fake_backend *f = container_of(hook, struct fake_backend, hook);

	while (f->num_pending)
		fake_backend_complete(f, 0, 0);
}

uint8_t fake_pattern(uint64_t offset)
{
	return (uint8_t)(offset * 13 + (offset >> 9) * 7 + 1);
}

static void fake_prior_write(struct backend *backend, uint64_t offset, uint64_t length)
{
	struct fake_backend *f = container_of(backend, struct fake_backend, common);

	assert(f->num_prior < FAKE_PRIOR_MAX);
	f->prior[f->num_prior][0] = offset;
	f->prior[f->num_prior++][1] = length;
}

static const struct backend_ops fake_ops = {
	.scheme = "fake",
	.submit = fake_submit,
	.prior_write = fake_prior_write,
};

void fake_backend_init(struct fake_backend *f, struct loop *loop, uint64_t size,
		       uint32_t block_size, uint32_t flags)
{
	uint64_t i;

	memset(f, 0, sizeof(*f));
	f->disk = malloc(size);
	assert(f->disk);
	for (i = 0; i < size; i++)
		f->disk[i] = fake_pattern(i);
	f->common.ops = &fake_ops;
	f->common.info = (struct backend_info){
		.size = size, .block_size = block_size, .min_block = 1,
		.preferred_block = 4096, .max_block = 1u << 20, .max_discard = 64 << 10,
		.max_write_zeroes = 32 << 10, .flags = flags,
	};
	f->queue = (struct backend_queue){ .backend = &f->common, .loop = loop };
	f->hook.run = complete_all;
}

void fake_backend_exit(struct fake_backend *f)
{
	assert(!f->num_pending);
	free(f->disk);
}
