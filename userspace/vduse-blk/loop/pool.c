// SPDX-License-Identifier: MIT
/*
 * Object pool: one allocation, cut into cache-line sized strides so that two
 * objects never share a line, linked into a last-in first-out free list.
 */
#include "loop/pool.h"

#include <errno.h>
#include <string.h>

#define CACHE_LINE 64

int pool_create(struct pool *pool, size_t size, unsigned int count)
{
	struct pool new = { .total = count, .available = count };
	size_t bytes;

	if (!size || !count || size > SIZE_MAX - CACHE_LINE)
		return -EINVAL;
	new.stride = round_up(size, CACHE_LINE);
	if (__builtin_mul_overflow(new.stride, count, &bytes))
		return -EINVAL;
	new.memory = aligned_alloc(CACHE_LINE, bytes);
	if (!new.memory)
		return -ENOMEM;
	memset(new.memory, 0, bytes);

	/* From the end, so that the first object handed out is the first in memory. */
	for (unsigned int i = count; i-- > 0;) {
		char *object = (char *)new.memory + new.stride * i;
		struct pool_link *link = (struct pool_link *)(void *)object;

		link->next = new.free;
		new.free = link;
	}
	*pool = new;
	return 0;
}

void pool_destroy(struct pool *pool)
{
	free(pool->memory);
	*pool = (struct pool){ 0 };
}
