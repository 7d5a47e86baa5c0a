/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How the module hangs in a kernel: which functions are hooked so that folios
 * are optimized when they enter the pool and restored before they leave it.
 */
#ifndef HVO_BACKEND_H
#define HVO_BACKEND_H

#include <linux/mm_types.h>

struct hstate;

/**
 * struct hvo_backend - one kind of kernel
 * @name: shown in /sys/kernel/mm/hvo/backend
 * @attach: registers the hooks; 0 or a negative errno (with a message)
 * @detach: gives the functions back; sleeps until nobody is in a hook
 * @has_native: the kernel has HVO (and vm.hugetlb_optimize_vmemmap) itself
 * @native_restore: the kernel's own restore of one folio, past our hook; NULL
 *	without @has_native
 */
struct hvo_backend {
	const char *name;
	int (*attach)(void);
	void (*detach)(void);
	bool has_native;
	int (*native_restore)(const struct hstate *h, struct folio *folio);
};

extern const struct hvo_backend hvo_backend;

#endif /* HVO_BACKEND_H */
