// SPDX-License-Identifier: GPL-2.0-only
/* See util.h for what these promise. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

#define PAGE_KB 4L
#define STRUCT_PAGE_SIZE 64UL
#define KEPT_VMEMMAP_PAGES 2UL
/* What the kernel's own caches may have grown by while a program ran. */
#define MEMORY_SLACK_KB (24 * 1024L)
/* With KASAN, what was freed stays in quarantine: up to this part of memory. */
#define QUARANTINE_PART 32

#if defined(__x86_64__)
#define ARCH "amd64"
#elif defined(__aarch64__)
#define ARCH "arm64"
#endif

static const unsigned long sizes_kb[] = { 64, KB_2M, KB_32M, KB_1G };

/* What there was before the module came. */
static struct {
	char ko[4096];
	long free_kb;
	long memmap_pages;
} first;

int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = sys(write(fd, text, strlen(text)));
	close(fd);
	return ret < 0 ? (int)ret : 0;
}

int file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = sys(read(fd, buf, size - 1));
	close(fd);
	if (ret < 0)
		return (int)ret;
	buf[ret] = '\0';
	return 0;
}

long file_read_long(const char *path)
{
	char buf[64];
	int err = file_read(path, buf, sizeof(buf));

	return err ? err : strtol(buf, NULL, 0);
}

static int file_write_long(const char *path, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return file_write(path, text);
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

bool wait_until(bool (*cond)(void *arg), void *arg)
{
	int i;

	for (i = 0; i < 6000; i++) {
		if (cond(arg))
			return true;
		sleep_ms(10);
	}
	return cond(arg);
}

/* The number after @field in a file of lines "field number". */
static long field_of(const char *path, const char *field, char separator)
{
	FILE *f = fopen(path, "re");
	size_t len = strlen(field);
	char line[256];
	long value = -1;

	if (!f)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, len) && line[len] == separator)
			value = strtol(line + len + 1, NULL, 10);
	fclose(f);
	return value;
}

long meminfo(const char *field)
{
	return field_of("/proc/meminfo", field, ':');
}

long vmstat(const char *field)
{
	return field_of("/proc/vmstat", field, ' ');
}

int last_node(void)
{
	char path[64];
	int node = 0;

	do {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages", ++node);
	} while (!access(path, F_OK));
	return node - 1;
}

/* Free memory with what lies on the processors' own lists. */
static long free_kb(void)
{
	FILE *f = fopen("/proc/zoneinfo", "re");
	long pages = 0, n;
	char line[256];

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " pages free %ld", &n) == 1 ||
		    sscanf(line, " count: %ld", &n) == 1)
			pages += n;
	fclose(f);
	return pages * PAGE_KB;
}

static void drop_caches(void)
{
	sync();
	file_write("/proc/sys/vm/drop_caches", "3");
}

static long memmap_pages(void)
{
	return vmstat("nr_memmap_pages") + vmstat("nr_memmap_boot_pages");
}

long pool_get(unsigned long kb, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s", kb, name);
	return file_read_long(path);
}

int pool_set(unsigned long kb, int node, long count)
{
	char path[128];
	int try, err;

	if (node == ALL_NODES)
		snprintf(path, sizeof(path),
			 "/sys/kernel/mm/hugepages/hugepages-%lukB/nr_hugepages", kb);
	else
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%lukB/nr_hugepages",
			 node, kb);
	for (try = 0; try < 3; try++) {
		if (try) {
			drop_caches();
			file_write("/proc/sys/vm/compact_memory", "1");
		}
		err = file_write_long(path, count);
		if (err)
			return err;
		if (file_read_long(path) == count)
			return 0;
	}
	return -ENOMEM;
}

static int empty_pools(void)
{
	size_t i;
	int err;

	for (i = 0; i < ARRAY_LEN(sizes_kb); i++) {
		if (pool_get(sizes_kb[i], "nr_hugepages") < 0)
			continue;
		err = pool_set(sizes_kb[i], ALL_NODES, 0);
		if (err)
			return err;
	}
	return 0;
}

int hvo_load(const char *parameters)
{
	int fd = open(first.ko, O_RDONLY | O_CLOEXEC);
	long ret;

	if (fd < 0)
		return -errno;
	ret = sys(syscall(SYS_finit_module, fd, parameters, 0));
	close(fd);
	return (int)ret;
}

int hvo_unload(void)
{
	return (int)sys(syscall(SYS_delete_module, "hvo", O_NONBLOCK));
}

int hvo_begin_with_pools(const char *argv0, const char *parameters)
{
	char *copy = strdup(argv0);
	const char *ko = getenv("HVO_KO");
	int err;

	if (!copy)
		return -ENOMEM;
	if (ko)
		snprintf(first.ko, sizeof(first.ko), "%s", ko);
	else
		snprintf(first.ko, sizeof(first.ko), "%s/../../../modules-test/" ARCH "/hvo.ko",
			 dirname(copy));
	free(copy);
	drop_caches();
	first.free_kb = free_kb();
	first.memmap_pages = memmap_pages();
	err = hvo_load(parameters);
	if (err)
		printf("# %s does not load: %s\n", first.ko, strerror(-err));
	return err;
}

int hvo_begin(const char *argv0, const char *parameters)
{
	int err = empty_pools();

	if (err) {
		printf("# the pools cannot be emptied: %s\n", strerror(-err));
		return err;
	}
	return hvo_begin_with_pools(argv0, parameters);
}

/* Compares, and counts what is wrong. */
static int wrong_if(bool wrong, const char *what, long seen, long expected)
{
	if (wrong)
		printf("# %s: %ld instead of %ld\n", what, seen, expected);
	return wrong;
}

static int wrong_unless_equal(const char *what, long seen, long expected)
{
	return wrong_if(seen != expected, what, seen, expected);
}

static bool kernel_has_kasan(void)
{
	FILE *symbols = fopen("/proc/kallsyms", "r");
	bool found = false;
	char line[512];

	if (!symbols)
		return false;
	while (!found && fgets(line, sizeof(line), symbols))
		found = strstr(line, " kasan_quarantine_reduce\n");
	fclose(symbols);
	return found;
}

static long memory_slack_kb(void)
{
	long slack = MEMORY_SLACK_KB;

	if (kernel_has_kasan())
		slack += meminfo("MemTotal") / QUARANTINE_PART;
	return slack;
}

int hvo_end(void)
{
	int wrong = 0;
	long seen;

	wrong += wrong_unless_equal("hvo.enabled=0", hvo_set("enabled", 0), 0);
	wrong += wrong_unless_equal("hvo.enabled", hvo_get("enabled"), 0);
	wrong += wrong_unless_equal("saved_kB", hvo_figure(ALL_SIZES, ALL_NODES, "saved_kB"), 0);
	seen = file_read_long("/sys/module/hvo/parameters/violations");
	/* Another build than the tests' own has none. */
	if (seen != -ENOENT || !getenv("HVO_KO"))
		wrong += wrong_unless_equal("violations", seen, 0);
	wrong += wrong_unless_equal("rmmod", hvo_unload(), 0);
	wrong += wrong_unless_equal("emptying the pools", empty_pools(), 0);
	wrong += wrong_unless_equal("HardwareCorrupted", meminfo("HardwareCorrupted"), 0);
	drop_caches();
	wrong += wrong_unless_equal("pages of vmemmap", memmap_pages(), first.memmap_pages);
	seen = free_kb();
	wrong += wrong_if(seen < first.free_kb - memory_slack_kb(), "free kB", seen, first.free_kb);
	return wrong;
}

int hvo_set(const char *name, long value)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/sys/vm/hvo/%s", name);
	return file_write_long(path, value);
}

long hvo_get(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/sys/vm/hvo/%s", name);
	return file_read_long(path);
}

long hvo_figure(unsigned long kb, int node, const char *name)
{
	char path[128];

	if (kb == ALL_SIZES)
		snprintf(path, sizeof(path), "/sys/kernel/mm/hvo/%s", name);
	else if (node == ALL_NODES)
		snprintf(path, sizeof(path), "/sys/kernel/mm/hvo/hugepages-%lukB/%s", kb, name);
	else
		snprintf(path, sizeof(path), "/sys/kernel/mm/hvo/hugepages-%lukB/node%d/%s",
			 kb, node, name);
	return file_read_long(path);
}

long hvo_saving(unsigned long kb)
{
	unsigned long pages = kb / PAGE_KB * STRUCT_PAGE_SIZE / (PAGE_KB << 10);

	return (long)(pages - KEPT_VMEMMAP_PAGES) * PAGE_KB;
}

void *huge_map(unsigned long kb, unsigned long count, int flags)
{
	int log2 = __builtin_ctzl(kb << 10);
	void *p = mmap(NULL, (size_t)count * kb << 10, PROT_READ | PROT_WRITE,
		       flags | MAP_ANONYMOUS | MAP_HUGETLB | log2 << MAP_HUGE_SHIFT, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* Neighbouring words of neighbouring seeds differ, too. */
static uint64_t word_at(size_t offset, uint64_t seed)
{
	return (offset + 1) * 0x9e3779b97f4a7c15ULL ^ seed * 0xd6e8feb86659fd93ULL;
}

void pattern_fill(void *p, size_t size, uint64_t seed)
{
	size_t offset;

	for (offset = 0; offset < size; offset += PATTERN_STEP)
		*(volatile uint64_t *)((char *)p + offset) = word_at(offset, seed);
}

long pattern_check(const void *p, size_t size, uint64_t seed)
{
	size_t offset;

	for (offset = 0; offset < size; offset += PATTERN_STEP)
		if (*(const volatile uint64_t *)((const char *)p + offset) != word_at(offset, seed))
			return (long)offset;
	return -1;
}

/* Reads @count words of a file that is an array of words. */
static int words_read(const char *path, uint64_t index, size_t count, uint64_t *ret_words)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t size = count * sizeof(*ret_words), done = 0;
	long ret = 0;

	if (fd < 0)
		return -errno;
	while (done < size) {
		ret = sys(pread(fd, (char *)ret_words + done, size - done,
				(off_t)(index * sizeof(*ret_words) + done)));
		if (ret <= 0)
			break;
		done += (size_t)ret;
	}
	close(fd);
	if (ret < 0)
		return (int)ret;
	return done == size ? 0 : -ENODATA;
}

uint64_t pfn_of(const void *p)
{
	const uint64_t present = UINT64_C(1) << 63, pfn_mask = (UINT64_C(1) << 55) - 1;
	uint64_t word;

	if (words_read("/proc/self/pagemap", (uintptr_t)p / (PAGE_KB << 10), 1, &word) ||
	    !(word & present))
		return 0;
	return word & pfn_mask;
}

int kpage_read(const char *file, uint64_t pfn, size_t count, uint64_t *ret_words)
{
	return words_read(file, pfn, count, ret_words);
}
