// SPDX-License-Identifier: MIT
/*
 * hvo-cost: what a change of the HugeTLB pool costs.
 *
 *	pool PAGES GIVEN	nr_hugepages 0 -> PAGES, and back; with each page
 *				GIVEN frames of struct pages are given back
 *	free PAGES		vm.hvo.enabled 0 -> 1, and back, with PAGES free pages
 *	used PAGES		the same while this process has all of them mapped
 *				and written
 *
 * PAGES are of 2 MiB. Each line of output is the name of a step and the
 * nanoseconds that the write to the sysctl took; in a machine that counts
 * instructions (tools/vm/vm --icount), instructions. Each step is checked by what the
 * kernel says afterwards, and whatever is wrong ends the program with status 1.
 */
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE_SIZE	(2UL << 20)
#define PAGES_MAX	65536

static const char nr_hugepages[] =
	"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
static const char optimized[] = "/sys/kernel/mm/hvo/hugepages-2048kB/optimized";
static const char enabled[] = "/proc/sys/vm/hvo/enabled";

static uint64_t now(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_MONOTONIC, &t))
		err(1, "clock_gettime");
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static unsigned long read_value(const char *path)
{
	unsigned long value;
	FILE *file = fopen(path, "r");

	if (!file || fscanf(file, "%lu", &value) != 1)
		err(1, "%s", path);
	fclose(file);
	return value;
}

/* Frames of struct pages, of whatever origin, that the kernel counts. */
static unsigned long memmap_pages(void)
{
	unsigned long sum = 0, value;
	FILE *file = fopen("/proc/vmstat", "r");
	char name[64];

	if (!file)
		err(1, "/proc/vmstat");
	while (fscanf(file, "%63s %lu", name, &value) == 2)
		if (!strcmp(name, "nr_memmap_pages") || !strcmp(name, "nr_memmap_boot_pages"))
			sum += value;
	fclose(file);
	if (!sum)
		errx(1, "/proc/vmstat has no nr_memmap_pages");
	return sum;
}

static void expect(const char *path, unsigned long value)
{
	unsigned long found = read_value(path);

	if (found != value)
		errx(1, "%s is %lu, not %lu", path, found, value);
}

/* What earlier steps left to be done later is not part of this one. */
static void settle(void)
{
	const struct timespec pause = { .tv_nsec = 200 * 1000 * 1000 };

	nanosleep(&pause, NULL);
}

static void timed_write(const char *step, const char *path, unsigned long value)
{
	char text[32];
	int length = snprintf(text, sizeof(text), "%lu", value);
	int fd = open(path, O_WRONLY);
	uint64_t start, end;
	ssize_t written;

	if (fd < 0)
		err(1, "%s", path);
	settle();
	start = now();
	written = write(fd, text, (size_t)length);
	end = now();
	if (written != length)
		err(1, "write to %s", path);
	close(fd);
	printf("%s %" PRIu64 "\n", step, end - start);
}

static void expect_memmap(unsigned long pages)
{
	unsigned long found = memmap_pages();

	if (found != pages)
		errx(1, "%lu pages of struct pages, not %lu", found, pages);
}

static void measure_pool(unsigned long pages, unsigned long given)
{
	unsigned long before = memmap_pages();

	expect(nr_hugepages, 0);
	timed_write("grow", nr_hugepages, pages);
	expect(nr_hugepages, pages);
	expect_memmap(before - pages * given);
	timed_write("shrink", nr_hugepages, 0);
	expect(nr_hugepages, 0);
	expect_memmap(before);
}

static void measure_switch(unsigned long pages)
{
	expect(nr_hugepages, pages);
	expect(optimized, 0);
	timed_write("optimize", enabled, 1);
	expect(optimized, pages);
	timed_write("restore", enabled, 0);
	expect(optimized, 0);
}

static void measure_switch_in_use(unsigned long pages)
{
	size_t size = pages * HUGE_SIZE, at;
	char *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (map == MAP_FAILED)
		err(1, "mmap of %lu huge pages", pages);
	for (at = 0; at < size; at += 4096)
		map[at] = 1;
	expect("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", 0);
	measure_switch(pages);
	munmap(map, size);
}

static unsigned long number(const char *text, unsigned long max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value > max)
		errx(2, "bad number '%s'", text);
	return value;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "pool"))
		measure_pool(number(argv[2], PAGES_MAX), number(argv[3], 7));
	else if (argc == 3 && !strcmp(argv[1], "free"))
		measure_switch(number(argv[2], PAGES_MAX));
	else if (argc == 3 && !strcmp(argv[1], "used"))
		measure_switch_in_use(number(argv[2], PAGES_MAX));
	else
		errx(2, "usage: hvo-cost pool PAGES GIVEN | free PAGES | used PAGES");
	return 0;
}
