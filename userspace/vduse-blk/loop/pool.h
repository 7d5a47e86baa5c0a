/* SPDX-License-Identifier: MIT */
/*
 * Objects of one size, all allocated at creation and kept on a free list.
 *
 * A pool belongs to one thread. get and put are a few instructions, never
 * allocate, and hand out the object that was used last (its cache lines are
 * warm). An object's content survives put and get, except for its first
 * pointer's worth of bytes, which hold the free list's link.
 */
#ifndef LOOP_POOL_H
#define LOOP_POOL_H

#include "base/util.h"

struct pool_link {
	struct pool_link *next;
};

struct pool {
	struct pool_link *free;
	void *memory;
	size_t stride;
	unsigned int total;
	unsigned int available; /* other threads may read it */
};

/**
 * pool_create() - allocate all objects, zeroed
 * @pool: to initialise
 * @size: bytes of one object; rounded up to a cache line
 * @count: number of objects, at least 1
 *
 * Return: 0, -EINVAL or -ENOMEM (then @pool is untouched).
 */
int pool_create(struct pool *pool, size_t size, unsigned int count);

/**
 * pool_destroy() - free the memory; every object must have come back
 * @pool: created by pool_create(), or zeroed memory
 */
void pool_destroy(struct pool *pool);

/**
 * pool_get() - take an object
 * @pool: the pool
 *
 * Return: an object, or NULL when all are in use.
 */
static inline void *pool_get(struct pool *pool)
{
	struct pool_link *link = pool->free;

	if (link) {
		pool->free = link->next;
		WRITE_ONCE(pool->available, pool->available - 1);
	}
	return link;
}

/**
 * pool_put() - give an object back
 * @pool: the pool that it came from
 * @object: the object
 */
static inline void pool_put(struct pool *pool, void *object)
{
	struct pool_link *link = object;

	link->next = pool->free;
	pool->free = link;
	WRITE_ONCE(pool->available, pool->available + 1);
}

#endif
