// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each worker is a process: set up once, then rounds until told to stop. What
 * they share is one page of counters. A round returns NULL or what is wrong.
 *
 * The disk workers compare with what they read through the page cache; the
 * disk, /dev/ram0, is theirs (a RAM disk that workers_start() makes).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util.h"
#include "workers.h"

#define HUGE (KB_2M << 10)
#define DISK "/dev/ram0"
/* Each disk worker has a part of the disk. */
#define DISK_PART (1UL << 20)
#define PIPE_SIZE (64UL << 10)

/*
 * memory: huge pages, HUGE * pages, owned by the worker
 * seed: of the pattern in it
 */
struct worker {
	const char *name;
	const char *(*setup)(struct worker *w);
	const char *(*round)(struct worker *w);
	unsigned long pages;
	char *memory;
	uint64_t seed;
	int disk;
	off_t disk_offset;
	int pipe[2];
	struct ring *ring;
	pid_t pid;
};

static struct shared {
	volatile int stop;
	volatile unsigned long rounds[16];
} *shared;

static int failures;

static size_t size_of(const struct worker *w)
{
	return w->pages * HUGE;
}

static const char *take_memory(struct worker *w)
{
	w->memory = huge_map(KB_2M, w->pages, MAP_PRIVATE);
	if (!w->memory)
		return "no huge pages";
	pattern_fill(w->memory, size_of(w), w->seed);
	return NULL;
}

static const char *intact(const struct worker *w, uint64_t seed)
{
	return pattern_check(w->memory, size_of(w), seed) < 0 ? NULL : "the pattern is broken";
}

/* Writes and reads. */
static const char *writer_round(struct worker *w)
{
	const char *wrong = intact(w, w->seed);

	pattern_fill(w->memory, size_of(w), ++w->seed);
	return wrong;
}

/*
 * A child writes to what it shares with us: the pages are copied. Half the
 * memory is shared so, the other half of this worker's pages is for the copies.
 */
static const char *fork_setup(struct worker *w)
{
	w->pages /= 2;
	return take_memory(w);
}

static const char *fork_round(struct worker *w)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return "fork";
	if (!pid) {
		if (intact(w, w->seed))
			_exit(1);
		pattern_fill(w->memory, size_of(w), w->seed + 1);
		_exit(intact(w, w->seed + 1) ? 2 : 0);
	}
	if (waitpid(pid, &status, 0) != pid)
		return "waitpid";
	if (status)
		return "the child's pattern is broken";
	return intact(w, w->seed);
}

static const char *mlock_round(struct worker *w)
{
	if (mlock(w->memory, size_of(w)))
		return "mlock";
	if (munlock(w->memory, size_of(w)))
		return "munlock";
	return intact(w, w->seed);
}

/* Pages leave and enter the pool. */
static const char *churn_setup(struct worker *w)
{
	(void)w;
	return NULL;
}

static const char *churn_round(struct worker *w)
{
	const char *wrong = take_memory(w);

	if (wrong)
		return wrong;
	wrong = intact(w, w->seed++);
	munmap(w->memory, size_of(w));
	return wrong;
}

static const char *file_setup(struct worker *w)
{
	int fd = (int)syscall(SYS_memfd_create, "hvo", MFD_HUGETLB);

	if (fd < 0 || ftruncate(fd, (off_t)size_of(w)))
		return "memfd_create";
	w->memory = mmap(NULL, size_of(w), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (w->memory == MAP_FAILED)
		return "no huge pages";
	w->disk = fd;
	return NULL;
}

/* Truncation and faults on a file of huge pages. */
static const char *file_round(struct worker *w)
{
	const char *wrong;

	pattern_fill(w->memory, size_of(w), ++w->seed);
	if (fallocate(w->disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE))
		return "fallocate";
	if (*(volatile uint64_t *)w->memory)
		return "a hole is not empty";
	pattern_fill(w->memory, HUGE, w->seed);
	wrong = intact(w, w->seed);
	return wrong;
}

static const char *disk_setup(struct worker *w)
{
	const char *wrong = take_memory(w);

	w->disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (w->disk < 0)
		return "no disk";
	return wrong;
}

/* To the disk from one huge page, back into another. */
static const char *direct_round(struct worker *w)
{
	char *from = w->memory, *to = w->memory + HUGE;

	pattern_fill(from, DISK_PART, ++w->seed);
	if (pwrite(w->disk, from, DISK_PART, w->disk_offset) != (ssize_t)DISK_PART)
		return "O_DIRECT write";
	memset(to, 0, DISK_PART);
	if (pread(w->disk, to, DISK_PART, w->disk_offset) != (ssize_t)DISK_PART)
		return "O_DIRECT read";
	if (pattern_check(from, DISK_PART, w->seed) >= 0)
		return "what was written is broken";
	return pattern_check(to, DISK_PART, w->seed) >= 0 ? "what was read is broken" : NULL;
}

/*
 * The least of io_uring: one request at a time, registered buffers. The kernel
 * keeps the pages of those pinned as long as the ring lives.
 */
struct ring {
	int fd;
	struct io_uring_sqe *sqe;
	char *queue;
	struct io_uring_params params;
};

static int ring_init(struct ring *r, char *buffer, size_t size)
{
	struct iovec iov = { buffer, size };
	size_t queue_size;

	r->fd = (int)syscall(SYS_io_uring_setup, 1, &r->params);
	if (r->fd < 0)
		return -1;
	queue_size = r->params.sq_off.array + r->params.sq_entries * sizeof(uint32_t);
	if (queue_size < r->params.cq_off.cqes +
			 r->params.cq_entries * sizeof(struct io_uring_cqe))
		queue_size = r->params.cq_off.cqes +
			     r->params.cq_entries * sizeof(struct io_uring_cqe);
	/* IORING_FEAT_SINGLE_MMAP: since Linux 5.4. */
	r->queue = mmap(NULL, queue_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
			IORING_OFF_SQ_RING);
	r->sqe = mmap(NULL, r->params.sq_entries * sizeof(*r->sqe), PROT_READ | PROT_WRITE,
		      MAP_SHARED, r->fd, IORING_OFF_SQES);
	if (r->queue == MAP_FAILED || (void *)r->sqe == MAP_FAILED)
		return -1;
	return (int)syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, &iov, 1);
}

/* Return: the request's result, or -1. */
static int ring_transfer(struct ring *r, int opcode, int fd, void *buffer, uint32_t size,
			 off_t offset)
{
	uint32_t *tail = (uint32_t *)(r->queue + r->params.sq_off.tail);
	uint32_t *head = (uint32_t *)(r->queue + r->params.cq_off.head);
	struct io_uring_cqe *cqes = (void *)(r->queue + r->params.cq_off.cqes);
	uint32_t cq_mask = r->params.cq_entries - 1;
	int result;

	*r->sqe = (struct io_uring_sqe){
		.opcode = (uint8_t)opcode, .fd = fd, .off = (uint64_t)offset,
		.addr = (uintptr_t)buffer, .len = size,
	};
	((uint32_t *)(r->queue + r->params.sq_off.array))[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		return -1;
	result = cqes[*head & cq_mask].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

static const char *uring_setup(struct worker *w)
{
	const char *wrong = disk_setup(w);

	if (wrong)
		return wrong;
	w->ring = calloc(1, sizeof(*w->ring));
	if (!w->ring || ring_init(w->ring, w->memory, size_of(w)))
		return "io_uring with registered buffers";
	return NULL;
}

static const char *uring_round(struct worker *w)
{
	char *from = w->memory, *to = w->memory + HUGE;

	pattern_fill(from, DISK_PART, ++w->seed);
	if (ring_transfer(w->ring, IORING_OP_WRITE_FIXED, w->disk, from, DISK_PART,
			  w->disk_offset) != (int)DISK_PART)
		return "WRITE_FIXED";
	memset(to, 0, DISK_PART);
	if (ring_transfer(w->ring, IORING_OP_READ_FIXED, w->disk, to, DISK_PART,
			  w->disk_offset) != (int)DISK_PART)
		return "READ_FIXED";
	return pattern_check(to, DISK_PART, w->seed) >= 0 ? "what was read is broken" : NULL;
}

static const char *splice_setup(struct worker *w)
{
	const char *wrong = take_memory(w);

	if (pipe(w->pipe) || fcntl(w->pipe[0], F_SETPIPE_SZ, (int)PIPE_SIZE) < 0)
		return "pipe";
	return wrong;
}

/* Base pages of the folio, tails mostly, are referenced by the pipe meanwhile. */
static const char *splice_round(struct worker *w)
{
	struct iovec iov = { NULL, PIPE_SIZE };
	static char copy[PIPE_SIZE];
	size_t offset, done;
	ssize_t n;

	for (offset = 0; offset < size_of(w); offset += HUGE / 4 + PIPE_SIZE) {
		iov.iov_base = w->memory + offset;
		if (vmsplice(w->pipe[1], &iov, 1, 0) != (ssize_t)PIPE_SIZE)
			return "vmsplice";
		usleep(1000);
		for (done = 0; done < PIPE_SIZE; done += (size_t)n) {
			n = read(w->pipe[0], copy + done, PIPE_SIZE - done);
			if (n <= 0)
				return "read from the pipe";
		}
		if (memcmp(copy, w->memory + offset, PIPE_SIZE))
			return "what came through the pipe is broken";
	}
	return intact(w, w->seed);
}

/* Together they have WORKERS_PAGES. */
static struct worker workers[] = {
	{ .name = "writer", .setup = take_memory, .round = writer_round, .pages = 8 },
	{ .name = "fork", .setup = fork_setup, .round = fork_round, .pages = 8 },
	{ .name = "mlock", .setup = take_memory, .round = mlock_round, .pages = 6 },
	{ .name = "churn", .setup = churn_setup, .round = churn_round, .pages = 8 },
	{ .name = "file", .setup = file_setup, .round = file_round, .pages = 6 },
	{ .name = "O_DIRECT", .setup = disk_setup, .round = direct_round, .pages = 4 },
	{ .name = "io_uring", .setup = uring_setup, .round = uring_round, .pages = 4 },
	{ .name = "vmsplice", .setup = splice_setup, .round = splice_round, .pages = 4 },
};

static void run(struct worker *w, volatile unsigned long *rounds)
{
	const char *wrong;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	wrong = w->setup(w);
	while (!wrong && !shared->stop) {
		wrong = w->round(w);
		++*rounds;
	}
	if (wrong)
		dprintf(1, "# %s: %s (round %lu, errno %d)\n", w->name, wrong, *rounds, errno);
	_exit(wrong ? 1 : 0);
}

static bool have_disk(void)
{
	if (access(DISK, F_OK) && system("modprobe brd rd_nr=1 rd_size=32768"))
		return false;
	return !access(DISK, R_OK | W_OK);
}

/* Why a worker cannot run here, or NULL. */
static const char *cannot_run(const struct worker *w, bool disk)
{
	struct io_uring_params params = { 0 };
	int fd;

	if (w->setup == disk_setup || w->setup == uring_setup) {
		if (!disk)
			return "the kernel has no brd (CONFIG_BLK_DEV_RAM)";
	}
	if (w->setup == uring_setup) {
		fd = (int)syscall(SYS_io_uring_setup, 1, &params);
		if (fd < 0)
			return "the kernel has no io_uring";
		close(fd);
	}
	return NULL;
}

int workers_start(void (*skip)(const char *name, const char *reason))
{
	bool disk = have_disk();
	const char *reason;
	int running = 0;
	size_t i;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	for (i = 0; i < ARRAY_LEN(workers); i++) {
		reason = cannot_run(&workers[i], disk);
		if (reason) {
			skip(workers[i].name, reason);
			continue;
		}
		workers[i].seed = i + 1;
		workers[i].disk_offset = (off_t)(i * DISK_PART);
		workers[i].pid = fork();
		if (workers[i].pid < 0)
			return -errno;
		if (!workers[i].pid)
			run(&workers[i], &shared->rounds[i]);
		running++;
	}
	return running;
}

unsigned long workers_rounds(void)
{
	unsigned long least = (unsigned long)-1;
	size_t i;

	for (i = 0; i < ARRAY_LEN(workers); i++)
		if (workers[i].pid && shared->rounds[i] < least)
			least = shared->rounds[i];
	return least;
}

/* Takes the status of those that have ended, or waits for all. */
static void reap(int flags)
{
	struct worker *w;
	int status;

	for (w = workers; w < workers + ARRAY_LEN(workers); w++) {
		if (!w->pid || waitpid(w->pid, &status, flags) != w->pid)
			continue;
		w->pid = 0;
		failures += !!status;
		if (WIFSIGNALED(status))
			printf("# %s: killed by signal %d\n", w->name, WTERMSIG(status));
	}
}

int workers_failed(void)
{
	reap(WNOHANG);
	return failures;
}

int workers_stop(void)
{
	shared->stop = 1;
	reap(0);
	return failures;
}
