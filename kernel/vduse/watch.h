/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * When the trackers of a domain have to look at their rings.
 */
#ifndef _VDUSE_WATCH_H
#define _VDUSE_WATCH_H

#include <linux/atomic.h>
#include <linux/compiler.h>
#include <linux/cpumask.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct vduse_domain;
struct vduse_inflight;

/**
 * struct vduse_watch_list - the started trackers of a domain, for readers
 * @rcu: defers the free
 * @packed: at least one of them follows a packed virtqueue
 * @nr: number of entries
 * @used: entries that are not NULL
 * @trackers: they, or NULL
 */
struct vduse_watch_list {
	struct rcu_head rcu;
	bool packed;
	unsigned int nr;
	unsigned int used;
	struct vduse_inflight *trackers[] __counted_by(nr);
};

/**
 * struct vduse_watch_budget - what a CPU may use without looking
 * @left: map events that may still pass
 * @given: what it was given; guarded by vduse_watch.lock
 */
struct vduse_watch_budget {
	atomic_t left;
	unsigned int given;
};

/**
 * struct vduse_watch - what decides when trackers look
 * @list: the trackers; NULL when there are none
 * @budget: per CPU: map events that may pass without looking
 * @lock: guards changes of @list, the hand-out of budget and @holders
 * @holders: CPUs whose budget may be above zero
 * @given: sum of what @holders were given
 */
struct vduse_watch {
	struct vduse_watch_list __rcu *list;
	struct vduse_watch_budget __percpu *budget;
	spinlock_t lock; /* list, budget */
	cpumask_var_t holders;
	unsigned int given;
};

/**
 * vduse_watch_init - prepare an empty watch
 * @w: zeroed
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.
 */
int vduse_watch_init(struct vduse_watch *w);

/**
 * vduse_watch_destroy - free a watch
 * @w: the watch, without trackers
 *
 * Context: may sleep.
 */
void vduse_watch_destroy(struct vduse_watch *w);

/**
 * vduse_watch_add - let a tracker be asked to look
 * @w: the watch
 * @t: the tracker
 * @packed: it follows a packed virtqueue
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.
 */
int vduse_watch_add(struct vduse_watch *w, struct vduse_inflight *t,
		    bool packed);

/**
 * vduse_watch_del - do not ask a tracker to look any more
 * @w: the watch
 * @t: the tracker
 *
 * Who walks the list may still ask it until an RCU grace period has passed.
 *
 * Context: any but hard interrupt; does not sleep.
 */
void vduse_watch_del(struct vduse_watch *w, struct vduse_inflight *t);

/**
 * vduse_domain_watch - the watch of a domain
 * @d: the domain
 *
 * Context: any.
 * Return: the watch; it lives as long as the domain.
 */
struct vduse_watch *vduse_domain_watch(struct vduse_domain *d);

/* The slow half of vduse_watch_map(). */
void vduse_watch_look(struct vduse_watch *w,
		      const struct vduse_watch_list *list);

/**
 * vduse_watch_map - the driver is about to map a buffer
 * @w: the watch
 *
 * To be called before the mapping is made, so before the buffer that it is
 * part of becomes available.
 *
 * Context: any; does not sleep.
 * Return: whether anything is tracked.
 */
static inline bool vduse_watch_map(struct vduse_watch *w)
{
	const struct vduse_watch_list *list;

	rcu_read_lock();
	list = rcu_dereference(w->list);
	if (list && (READ_ONCE(list->packed) ||
		     atomic_dec_if_positive(&raw_cpu_ptr(w->budget)->left) < 0))
		vduse_watch_look(w, list);
	rcu_read_unlock();

	return list;
}

#endif /* _VDUSE_WATCH_H */
