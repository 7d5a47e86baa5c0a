/* SPDX-License-Identifier: MIT */
/*
 * Survive a driver that takes memory away under a mapping.
 *
 * A page of a mapped region may have nothing behind it: an address in the
 * bounce area that no request has used, or guest memory in a file that was cut.
 * Touching it raises SIGBUS. Inside guarded ranges the handler puts an empty
 * page there instead, so the daemon reads zeroes and writes into nothing, and
 * the bad request spoils only itself. Anywhere else SIGBUS kills, as it should.
 */
#ifndef VDUSE_BLK_TRANSPORT_SIGBUS_H
#define VDUSE_BLK_TRANSPORT_SIGBUS_H

#include <stddef.h>

#include "base/error.h"

/**
 * sigbus_guard_install() - install the signal handler
 * @e: error text
 *
 * Call it before the first sigbus_guard_add(); again does no harm.
 *
 * Return: 0 or -errno.
 */
int sigbus_guard_install(struct error *e);

/**
 * sigbus_guard_add() - guard a mapping
 * @vaddr:	page-aligned start
 * @size:	length in bytes
 *
 * Any thread.
 *
 * Return: 0, or -ENOSPC when too many ranges are guarded.
 */
int sigbus_guard_add(const void *vaddr, size_t size);

/**
 * sigbus_guard_add_huge() - the same for a mapping of huge pages
 * @vaddr:	aligned to @page_size
 * @size:	length in bytes
 * @page_size:	what the mapping is made of: no smaller piece can be replaced
 *
 * Any thread.
 *
 * Return: 0, or -ENOSPC when too many ranges are guarded.
 */
int sigbus_guard_add_huge(const void *vaddr, size_t size, size_t page_size);

/**
 * sigbus_guard_del() - a mapping is about to go
 * @vaddr:	as given to sigbus_guard_add()
 * @size:	likewise
 *
 * Any thread.
 */
void sigbus_guard_del(const void *vaddr, size_t size);

/**
 * sigbus_guard_hits() - how many pages were replaced so far
 *
 * Return: the counter.
 */
unsigned long sigbus_guard_hits(void);

#endif
