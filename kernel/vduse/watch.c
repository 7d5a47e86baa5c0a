// SPDX-License-Identifier: GPL-2.0-only
/*
 * When the trackers of a domain have to look at their rings.
 *
 * A map event says that some virtqueue of the device is about to get a new
 * buffer, but not which: the DMA API has no such argument. Two rules follow.
 *
 * Packed rings overwrite what a tracker has to read, so every map event asks
 * every tracker; the question is two loads per virtqueue when there is nothing
 * new.
 *
 * Split rings keep the last num avail and num used entries, so a number of
 * map events may pass without looking: the budget. Let k be the requests of a
 * virtqueue in flight when it was looked at last, and a the buffers added
 * since. At most a avail entries and k + a used entries are new; nothing
 * unseen was overwritten if k + a <= num. Each add comes after a map event of
 * its own, so it is enough that the budget of all CPUs together never exceeds
 * the smallest num - k - 1. The one that is left out is for an add whose map
 * event came before the look and which becomes available after it: the lock
 * of the virtqueue's driver is held from the mapping until then, so there can
 * be one such add per virtqueue, not two.
 *
 * It holds between looks, too, because each add that raises k has used up at
 * least one unit. When the budget is nothing (a ring full of requests) the
 * map event looks and goes on without one; its own add fits, because the
 * driver found a free descriptor, so it has seen the used entry that freed
 * it, and so did we.
 *
 * Budget is handed out per CPU, so that queues of different CPUs do not share
 * a cache line. A CPU that needs more takes half of what is left; when there
 * is little left, what the others hold is taken back first, and everything
 * is looked at again, because what they used up until then does not count as
 * handed out any more. Units are taken with atomic operations, so each is
 * either used or taken back.
 *
 * Locks: the lock of a driver's virtqueue > watch.lock > inflight.lock.
 * Interrupts are off under both of ours. The list is read under RCU; its
 * entries change in place, NULL is an entry that is free.
 */
#include <linux/minmax.h>
#include <linux/percpu.h>
#include <linux/slab.h>

#include "inflight.h"
#include "watch.h"

/* Below this it is better to take back what other CPUs hold. */
#define WATCH_FEW	8

int vduse_watch_init(struct vduse_watch *w)
{
	spin_lock_init(&w->lock);

	if (!zalloc_cpumask_var(&w->holders, GFP_KERNEL))
		return -ENOMEM;

	w->budget = alloc_percpu(struct vduse_watch_budget);
	if (!w->budget) {
		free_cpumask_var(w->holders);
		return -ENOMEM;
	}

	return 0;
}

void vduse_watch_destroy(struct vduse_watch *w)
{
	kfree(rcu_dereference_protected(w->list, true));
	free_percpu(w->budget);
	free_cpumask_var(w->holders);
}

static void watch_take_back_from(struct vduse_watch *w, unsigned int cpu)
	__must_hold(&w->lock)
{
	struct vduse_watch_budget *budget = per_cpu_ptr(w->budget, cpu);

	/* Fully ordered: adds that used a unit come before our next look. */
	atomic_xchg(&budget->left, 0);
	w->given -= budget->given;
	budget->given = 0;
	cpumask_clear_cpu(cpu, w->holders);
}

static void watch_take_back(struct vduse_watch *w)
	__must_hold(&w->lock)
{
	unsigned int cpu;

	for_each_cpu(cpu, w->holders)
		watch_take_back_from(w, cpu);
}

/* Look at all rings; how many adds would no tracker lose sight of? */
static unsigned int watch_room(const struct vduse_watch_list *list)
{
	struct vduse_inflight *t;
	unsigned int i, room = U16_MAX;

	for (i = 0; i < list->nr; i++) {
		t = READ_ONCE(list->trackers[i]);
		if (t)
			room = min(room, vduse_inflight_look(t));
	}

	return room ? room - 1 : 0;
}

static void watch_refill(struct vduse_watch *w)
{
	const struct vduse_watch_list *list;
	struct vduse_watch_budget *mine;
	unsigned int cpu, room, part;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	list = rcu_dereference_protected(w->list, lockdep_is_held(&w->lock));
	if (!list)
		goto out;

	cpu = smp_processor_id();
	mine = per_cpu_ptr(w->budget, cpu);
	watch_take_back_from(w, cpu);
	room = watch_room(list);
	if (room < w->given + WATCH_FEW && !cpumask_empty(w->holders)) {
		watch_take_back(w);
		room = watch_room(list);
	}

	/* One unit is for the event that brought us here. */
	part = DIV_ROUND_UP(room - w->given, 2);
	if (part < 2)
		goto out;

	mine->given = part - 1;
	w->given += part - 1;
	cpumask_set_cpu(cpu, w->holders);
	atomic_set(&mine->left, part - 1);
out:
	spin_unlock_irqrestore(&w->lock, flags);
}

void vduse_watch_look(struct vduse_watch *w,
		      const struct vduse_watch_list *list)
{
	struct vduse_inflight *t;
	unsigned int i;

	if (!list->packed) {
		watch_refill(w);
		return;
	}

	for (i = 0; i < list->nr; i++) {
		t = READ_ONCE(list->trackers[i]);
		if (t)
			vduse_inflight_peek(t);
	}
}

static struct vduse_watch_list *watch_list(struct vduse_watch *w)
	__must_hold(&w->lock)
{
	return rcu_dereference_protected(w->list, lockdep_is_held(&w->lock));
}

static void watch_replace(struct vduse_watch *w, struct vduse_watch_list *list)
	__must_hold(&w->lock)
{
	struct vduse_watch_list *old = watch_list(w);

	rcu_assign_pointer(w->list, list);
	if (old)
		kfree_rcu(old, rcu);
}

/* Put a tracker in if there is a free entry. */
static bool watch_put(struct vduse_watch *w, struct vduse_inflight *t,
		      bool packed)
	__must_hold(&w->lock)
{
	struct vduse_watch_list *list = watch_list(w);
	unsigned int i;

	if (!list || list->used == list->nr)
		return false;

	for (i = 0; list->trackers[i]; i++)
		;
	WRITE_ONCE(list->trackers[i], t);
	list->used++;
	if (packed)
		WRITE_ONCE(list->packed, true);

	return true;
}

int vduse_watch_add(struct vduse_watch *w, struct vduse_inflight *t,
		    bool packed)
{
	struct vduse_watch_list *old, *fresh = NULL;
	unsigned int nr = 0;
	unsigned long flags;

	spin_lock_irqsave(&w->lock, flags);
	while (!watch_put(w, t, packed)) {
		old = watch_list(w);
		if (fresh && nr >= (old ? old->nr : 0) + 1) {
			if (old) {
				memcpy(fresh->trackers, old->trackers,
				       old->nr * sizeof(old->trackers[0]));
				fresh->used = old->used;
				fresh->packed = old->packed;
			}
			watch_replace(w, fresh);
			fresh = NULL;
			continue;
		}
		nr = 2 * (old ? old->nr : 0) + 4;
		spin_unlock_irqrestore(&w->lock, flags);

		kfree(fresh);
		fresh = kzalloc(struct_size(fresh, trackers, nr), GFP_KERNEL);
		if (!fresh)
			return -ENOMEM;
		fresh->nr = nr;

		spin_lock_irqsave(&w->lock, flags);
	}
	/* Handed out without regard to the new virtqueue. */
	watch_take_back(w);
	spin_unlock_irqrestore(&w->lock, flags);
	kfree(fresh);

	return 0;
}

void vduse_watch_del(struct vduse_watch *w, struct vduse_inflight *t)
{
	struct vduse_watch_list *list;
	unsigned long flags;
	unsigned int i;

	spin_lock_irqsave(&w->lock, flags);
	list = watch_list(w);
	for (i = 0; list && i < list->nr; i++) {
		if (list->trackers[i] != t)
			continue;
		WRITE_ONCE(list->trackers[i], NULL);
		if (!--list->used)
			watch_replace(w, NULL);
		break;
	}
	spin_unlock_irqrestore(&w->lock, flags);
}
