/* SPDX-License-Identifier: MIT */
/*
 * Small helpers that C lacks. Everything here is an expression, an attribute
 * or a few inlined lines; nothing allocates.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a)			(sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define min(a, b)                                  \
	({                                         \
		__typeof__(a) min_a_ = (a);        \
		__typeof__(b) min_b_ = (b);        \
		min_a_ < min_b_ ? min_a_ : min_b_; \
	})

#define max(a, b)                                  \
	({                                         \
		__typeof__(a) max_a_ = (a);        \
		__typeof__(b) max_b_ = (b);        \
		max_a_ > max_b_ ? max_a_ : max_b_; \
	})

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/*
 * Memory shared with another thread, the kernel or a driver: exactly one access,
 * aligned or not. ThreadSanitizer takes nothing less than an atomic for one.
 */
#ifdef __SANITIZE_THREAD__
#define READ_ONCE(x)		 __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v)	 __atomic_store_n(&(x), v, __ATOMIC_RELAXED)
#else
#define READ_ONCE(x)		 (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v)	 (*(volatile __typeof__(x) *)&(x) = (v))
#endif

/* A counter that one thread writes and any thread may read. */
#define counter_add(p, n)	 __atomic_store_n(p, *(p) + (n), __ATOMIC_RELAXED)
#define counter_set(p, n)	 __atomic_store_n(p, n, __ATOMIC_RELAXED)
#define counter_read(p)		 __atomic_load_n(p, __ATOMIC_RELAXED)

#define PRINTF_FORMAT(fmt, args) __attribute__((format(printf, fmt, args)))

static inline bool is_power_of_2(uint64_t n)
{
	return n && !(n & (n - 1));
}

/* @align must be a power of two; the caller knows that the sum does not overflow. */
static inline uint64_t round_up(uint64_t n, uint64_t align)
{
	return (n + align - 1) & ~(align - 1);
}

static inline uint64_t round_down(uint64_t n, uint64_t align)
{
	return n & ~(align - 1);
}

static inline bool is_aligned(uint64_t n, uint64_t align)
{
	return !(n & (align - 1));
}

/*
 * Scope-bound ownership: the variable's value is released when it goes out of
 * scope, so a function with several error returns needs no label for it.
 */
static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define auto_free  __attribute__((cleanup(cleanup_free)))
#define auto_close __attribute__((cleanup(cleanup_close)))

/* Hand the descriptor over: the scope no longer owns it. */
static inline int take_fd(int *fd)
{
	int ret = *fd;

	*fd = -1;
	return ret;
}

/* Hand the pointer over: the scope no longer owns it. */
#define take_ptr(p)                             \
	({                                      \
		__typeof__(p) taken_ptr_ = (p); \
		(p) = NULL;                     \
		taken_ptr_;                     \
	})

#endif
