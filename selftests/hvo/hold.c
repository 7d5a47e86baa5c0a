// SPDX-License-Identifier: GPL-2.0-only
/*
 * usage: hold KB COUNT [NODE]
 *
 * Takes huge pages, fills them with a pattern, prints "ready" and keeps them
 * until SIGTERM. Exit status: 0 if the pattern is still there, 1 if not, 2 if
 * the pages cannot be had. For the shell programs.
 */
#define _GNU_SOURCE
#include <linux/mempolicy.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util.h"

static long bind_to(void *p, size_t size, int node)
{
	unsigned long mask = 1UL << node;

	return sys(syscall(SYS_mbind, p, size, MPOL_BIND, &mask, 8 * sizeof(mask), 0));
}

int main(int argc, char **argv)
{
	unsigned long kb, count;
	sigset_t set;
	size_t size;
	long wrong;
	int sig;
	void *p;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: hold KB COUNT [NODE]\n");
		return 2;
	}
	kb = strtoul(argv[1], NULL, 10);
	count = strtoul(argv[2], NULL, 10);
	size = (size_t)count * kb << 10;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);

	p = huge_map(kb, count, MAP_PRIVATE);
	if (!p) {
		perror("mmap");
		return 2;
	}
	if (argc == 4 && bind_to(p, size, atoi(argv[3]))) {
		perror("mbind");
		return 2;
	}
	pattern_fill(p, size, count);
	printf("ready\n");
	fflush(stdout);
	sigwait(&set, &sig);
	wrong = pattern_check(p, size, count);
	if (wrong >= 0)
		printf("the pattern is broken at offset %ld\n", wrong);
	return wrong >= 0;
}
