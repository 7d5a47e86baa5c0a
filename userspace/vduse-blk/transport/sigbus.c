// SPDX-License-Identifier: MIT
/*
 * Survive a driver that takes memory away under a mapping.
 *
 * The handler runs on the thread that faulted and may not lock, so ranges live
 * in a fixed table of atomics. A slot is published by its size, which is
 * written last and cleared first; writers hold a mutex against each other. The
 * thread that faults inside a range is using it, so the range cannot be on its
 * way out while the handler looks at it.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "transport/sigbus.h"

/* Regions of every queue together; a guest's memory has a handful. */
#define GUARD_MAX 4096

struct guard {
	_Atomic(uintptr_t) start;
	atomic_size_t page_size;
	atomic_size_t size;
};

static struct guard guards[GUARD_MAX];
static atomic_uint guards_used; /* slots from here on were never used */
static pthread_mutex_t guards_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_ulong hits;
static size_t default_page_size;

/* Size of the page around a guarded address; 0 if it is not guarded. */
static size_t guarded_page(uintptr_t addr)
{
	const unsigned int used = atomic_load_explicit(&guards_used, memory_order_acquire);
	unsigned int i;

	for (i = 0; i < used; i++) {
		size_t size = atomic_load_explicit(&guards[i].size, memory_order_acquire);
		uintptr_t start = atomic_load_explicit(&guards[i].start, memory_order_relaxed);

		if (addr >= start && addr - start < size)
			return atomic_load_explicit(&guards[i].page_size, memory_order_relaxed);
	}
	return 0;
}

static void handle_sigbus(int sig, siginfo_t *info, void *context)
{
	static const char text[] =
		"warning: memory that the driver named has vanished, replaced with an empty page\n";
	const uintptr_t addr = (uintptr_t)info->si_addr;
	const size_t page_size = guarded_page(addr);
	const int saved = errno;
	void *page = (void *)(addr & ~(page_size - 1));

	(void)context;
	/* Positive codes are faults; anything else was sent by somebody. */
	if (info->si_code > 0 && page_size &&
	    mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) != MAP_FAILED) {
		if (!atomic_fetch_add(&hits, 1)) {
			ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);

			(void)ignored;
		}
		errno = saved;
		return;
	}
	signal(sig, SIG_DFL);
	raise(sig);
	errno = saved;
}

int sigbus_guard_install(struct error *e)
{
	struct sigaction action = { .sa_flags = SA_SIGINFO, .sa_sigaction = handle_sigbus };

	default_page_size = (size_t)sysconf(_SC_PAGESIZE);
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, NULL))
		return err_set_errno(e, errno, "install the SIGBUS handler");
	return 0;
}

int sigbus_guard_add(const void *vaddr, size_t size)
{
	return sigbus_guard_add_huge(vaddr, size, default_page_size);
}

int sigbus_guard_add_huge(const void *vaddr, size_t size, size_t page_size)
{
	unsigned int i, used;
	int ret = -ENOSPC;

	pthread_mutex_lock(&guards_lock);
	used = atomic_load(&guards_used);
	for (i = 0; i < GUARD_MAX; i++) {
		if (i < used && atomic_load(&guards[i].size))
			continue;
		atomic_store_explicit(&guards[i].start, (uintptr_t)vaddr, memory_order_relaxed);
		atomic_store_explicit(&guards[i].page_size, page_size, memory_order_relaxed);
		atomic_store_explicit(&guards[i].size, size, memory_order_release);
		if (i >= used)
			atomic_store_explicit(&guards_used, i + 1, memory_order_release);
		ret = 0;
		break;
	}
	pthread_mutex_unlock(&guards_lock);
	return ret;
}

void sigbus_guard_del(const void *vaddr, size_t size)
{
	unsigned int i, used;

	pthread_mutex_lock(&guards_lock);
	used = atomic_load(&guards_used);
	for (i = 0; i < used; i++) {
		if (atomic_load(&guards[i].start) == (uintptr_t)vaddr &&
		    atomic_load(&guards[i].size) == size) {
			atomic_store_explicit(&guards[i].size, 0, memory_order_release);
			break;
		}
	}
	pthread_mutex_unlock(&guards_lock);
}

unsigned long sigbus_guard_hits(void)
{
	return atomic_load(&hits);
}
