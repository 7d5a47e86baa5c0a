// SPDX-License-Identifier: MIT
/*
 * hold-pages COUNT: a program that uses huge pages and would notice a wrong
 * byte.
 *
 * It maps COUNT pages of 2 MiB and fills them. Then, until SIGTERM, each pass
 * reads all of them, compares every word, and writes what the next pass wants
 * to find. One line of output a pass; the last line sums up. Exit status: 0 if
 * nothing was wrong, 1 if something was, 2 if there are no such pages.
 */
#include <err.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_SIZE	(2UL << 20)

static volatile sig_atomic_t stop;

static void on_term(int signal)
{
	(void)signal;
	stop = 1;
}

/* Differs from word to word, from page to page and from pass to pass. */
static uint64_t pattern(size_t index, uint64_t pass)
{
	return (index + 1) * UINT64_C(0x9e3779b97f4a7c15) + pass;
}

static unsigned long wrong_bytes(uint64_t found, uint64_t wanted)
{
	uint64_t difference = found ^ wanted;
	unsigned long count = 0;

	for (; difference; difference >>= 8)
		count += (difference & 0xff) != 0;
	return count;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_term };
	unsigned long pages, wrong = 0;
	uint64_t *map, pass = 0;
	size_t words, i;

	pages = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
	if (!pages || pages > 65536)
		errx(2, "usage: hold-pages COUNT");
	map = mmap(NULL, pages * HUGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (map == MAP_FAILED)
		err(2, "%lu huge pages", pages);
	if (sigaction(SIGTERM, &action, NULL))
		err(2, "sigaction");

	words = pages * HUGE_SIZE / sizeof(*map);
	for (i = 0; i < words; i++)
		map[i] = pattern(i, pass);
	while (!stop) {
		for (i = 0; i < words; i++) {
			wrong += wrong_bytes(map[i], pattern(i, pass));
			map[i] = pattern(i, pass + 1);
		}
		pass++;
		printf("pass %" PRIu64 ": %lu wrong bytes\n", pass, wrong);
		fflush(stdout);
	}
	printf("read %lu MiB %" PRIu64 " times, %lu wrong bytes\n", pages * 2, pass, wrong);
	return wrong != 0;
}
