// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linked with the kernel's hugetlb-read-hwpoison, which dies of the SIGBUS that
 * MADV_HWPOISON sends since 6.11: with this it goes on behind the madvise(). The
 * test reads poisoned pages through read() only; if it touched one, the handler
 * would come again and again for the same instruction, so it gives up soon.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_SIGNALS 64

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	static int signals;

	(void)sig;
	(void)context;
	if (info->si_code != BUS_MCEERR_AR || ++signals > MAX_SIGNALS)
		_exit(128 + SIGBUS);
}

__attribute__((constructor)) static void install(void)
{
	struct sigaction sa;

	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = on_sigbus;
	sa.sa_flags = SA_SIGINFO;
	if (sigaction(SIGBUS, &sa, NULL))
		abort();
}
