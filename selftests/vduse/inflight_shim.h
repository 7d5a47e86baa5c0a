/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What kernel/vduse/inflight.c and watch.c need of the kernel, for one thread
 * of user space that plays all processors. Memory barriers are where it lets
 * the others run (sim_barrier()), so a look at a ring is interrupted exactly
 * where the real one can be.
 */
#ifndef INFLIGHT_SHIM_H
#define INFLIGHT_SHIM_H

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/types.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned int gfp_t;

#define GFP_KERNEL 0
#define U16_MAX UINT16_MAX
#define __force
#define __rcu
#define __percpu
#undef __counted_by
#define __counted_by(x)
#define __must_hold(x)
#define BIT(n) (1U << (n))
#define IS_ALIGNED(x, a) (!((x) & ((a) - 1)))
#define DIV_ROUND_UP(a, b) (((a) + (b) - 1) / (b))
#define BUILD_BUG_ON(x) _Static_assert(!(x), #x)
#define struct_size(p, member, n) \
	(sizeof(*(p)) + sizeof((p)->member[0]) * (size_t)(n))
#define container_of(ptr, type, member) \
	((type *)((char *)(ptr) - offsetof(type, member)))

static inline bool is_power_of_2(unsigned long n)
{
	return n && !(n & (n - 1));
}

static inline unsigned int min(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

#define le16_to_cpu(x) le16toh(x)
#define le32_to_cpu(x) le32toh(x)
#define le64_to_cpu(x) le64toh(x)
#define cpu_to_le16(x) htole16(x)
#define cpu_to_le32(x) htole32(x)
#define cpu_to_le64(x) htole64(x)

/* Somebody else runs. */
void sim_barrier(void);

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))
#define smp_mb() sim_barrier() /* here */
#define smp_rmb() sim_barrier() /* here */
#define smp_wmb() sim_barrier() /* and here */
/* and before a release */
#define smp_store_release(p, v) (sim_barrier(), WRITE_ONCE(*(p), v))
/* and after an acquire */
#define smp_load_acquire(p) ({		\
	__typeof__(*(p)) v_ = READ_ONCE(*(p));	\
	sim_barrier();				\
	v_;					\
})

/* What the module says; the simulation counts it. */
void sim_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define pr_warn(...) sim_log(__VA_ARGS__)
#define pr_info(...) ((void)0)

/* Allocation */
#define kzalloc(size, gfp) calloc(1, size)
#define kvzalloc(size, gfp) calloc(1, size)
#define kfree(p) free(p)
#define kvfree(p) free(p)

/* RCU: what is freed in a read-side section stays until its end. */
struct rcu_head {
	int unused;
};

void sim_rcu_read_lock(void);
void sim_rcu_read_unlock(void);
void sim_free_later(void *p);

#define rcu_read_lock() sim_rcu_read_lock()
#define rcu_read_unlock() sim_rcu_read_unlock()
#define rcu_dereference(p) READ_ONCE(p)
#define rcu_dereference_protected(p, cond) ((void)sizeof(cond), READ_ONCE(p))
#define rcu_access_pointer(p) READ_ONCE(p)
#define rcu_assign_pointer(p, v) WRITE_ONCE(p, v)
#define kfree_rcu(p, member) sim_free_later(p)
#define kvfree_rcu(p, member) sim_free_later(p)

/* Locks: with one thread, taking one that is held is a bug. */
typedef struct {
	bool held;
} spinlock_t;

#define spin_lock_init(l) ((l)->held = false)
#define lockdep_is_held(l) ((l)->held)

static inline void sim_lock(spinlock_t *lock)
{
	assert(!lock->held);
	lock->held = true;
}

static inline void sim_unlock(spinlock_t *lock)
{
	assert(lock->held);
	lock->held = false;
}

#define spin_lock_irqsave(l, flags) ((flags) = 0, sim_lock(l))
#define spin_unlock_irqrestore(l, flags) ((void)(flags), sim_unlock(l))

/* Processors */
#define SIM_CPUS 4

extern unsigned int sim_cpu;

#define smp_processor_id() sim_cpu
#define alloc_percpu(type) ((type *)calloc(SIM_CPUS, sizeof(type)))
#define free_percpu(p) free(p)
#define per_cpu_ptr(p, cpu) (&(p)[cpu])
#define raw_cpu_ptr(p) (&(p)[sim_cpu])

typedef unsigned int cpumask_var_t[1];

#define zalloc_cpumask_var(m, gfp) ((*(m))[0] = 0, true)
#define free_cpumask_var(m) ((void)(m))
#define cpumask_set_cpu(cpu, m) ((m)[0] |= BIT(cpu))
#define cpumask_clear_cpu(cpu, m) ((m)[0] &= ~BIT(cpu))
#define cpumask_empty(m) (!(m)[0])
#define for_each_cpu(cpu, m)				\
	for ((cpu) = 0; (cpu) < SIM_CPUS; (cpu)++)	\
		if ((m)[0] & BIT(cpu))

typedef struct {
	int counter;
} atomic_t;

#define atomic_set(a, v) ((a)->counter = (v))

static inline int atomic_xchg(atomic_t *a, int v)
{
	int old = a->counter;

	a->counter = v;
	return old;
}

static inline int atomic_dec_if_positive(atomic_t *a)
{
	return a->counter > 0 ? --a->counter : a->counter - 1;
}

/* <linux/vdpa.h> of the kernel */
struct vdpa_vq_state_split {
	u16 avail_index;
};

struct vdpa_vq_state_packed {
	u16 last_avail_counter : 1;
	u16 last_avail_idx : 15;
	u16 last_used_counter : 1;
	u16 last_used_idx : 15;
};

struct vdpa_vq_state {
	union {
		struct vdpa_vq_state_split split;
		struct vdpa_vq_state_packed packed;
	};
};

#endif /* INFLIGHT_SHIM_H */
