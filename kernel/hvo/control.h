/* SPDX-License-Identifier: GPL-2.0-only */
/* What operators see: /proc/sys/vm/hvo/ and /sys/kernel/mm/hvo/. */
#ifndef HVO_CONTROL_H
#define HVO_CONTROL_H

/**
 * hvo_sysctl_register() - vm.hvo.enabled, in_use and batch, and
 * vm.hugetlb_optimize_vmemmap where the kernel has none of its own
 *
 * Context: module init, last of all: a write may follow at once. Sleeps.
 * Return: 0 or -ENOMEM.
 */
int hvo_sysctl_register(void);

/** hvo_sysctl_unregister() - returns when no handler runs any more */
void hvo_sysctl_unregister(void);

/**
 * hvo_sysfs_create() - /sys/kernel/mm/hvo
 *
 * Context: module init, after hvo_stats_alloc(); sleeps.
 * Return: 0 or a negative errno.
 */
int hvo_sysfs_create(void);
void hvo_sysfs_remove(void);

#endif /* HVO_CONTROL_H */
