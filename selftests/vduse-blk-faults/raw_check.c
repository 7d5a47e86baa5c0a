// SPDX-License-Identifier: GPL-2.0-only
/*
 * usage: raw_check run DISK MODEL size=BYTES [offset=BYTES] [threads=N]
 *                  [seconds=S] [seed=N] [durable=1]
 *        raw_check verify DISK MODEL [durable=1]
 *        raw_check progress MODEL
 *
 * run: a mixed load on a part of a disk (or of a file) that was zeroes, with
 * O_DIRECT: reads, writes with and without FUA, zeroing, flushes. What each
 * block may hold (blocks.h) is kept in the file MODEL, which has to lie on
 * another disk; each read is checked against it at once. An error of a request
 * is counted, and the load goes on. It ends after so many seconds (0: never) or
 * at SIGTERM; at every other SIGUSR1 it stops asking for durability, and begins
 * again at those between.
 *
 * verify: reads everything once and checks it. durable: the disk may have lost
 * what was not flushed (a server whose cache died).
 *
 * progress: prints how many requests have been completed without an error.
 *
 * Exit status: 0 all is well (errors of requests are no failure), 1 a block
 * holds what it must not, 2 it could not be done.
 *
 * MODEL is mapped shared, so it is whole at any moment, even if this is killed:
 * newest is raised before a write is submitted, acked after it was completed.
 * Each thread owns a range of blocks; nobody else touches their states.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../vduse/util.h"
#include "blocks.h"
#include "options.h"
#include "prng.h"

#define MODEL_MAGIC UINT64_C(0x6c65646f6d6b6c62)
#define MAX_THREADS 64
#define MAX_RUN	    16 /* blocks in one request */

struct model {
	uint64_t magic;
	uint64_t seed;
	uint64_t offset;
	uint64_t blocks;
	atomic_uint_fast64_t completed;
	struct block_state block[];
};

enum kind {
	KIND_READ,
	KIND_WRITE,
	KIND_FUA,
	KIND_ZERO,
	KIND_FLUSH,
	KIND_MAX
};

static const char *const kind_name[KIND_MAX] = { "reads", "writes", "fua", "zeroes", "flushes" };

struct counters {
	atomic_uint_fast64_t done[KIND_MAX], failed[KIND_MAX], longest_ms;
	atomic_int first_error;
};

struct worker {
	pthread_t thread;
	struct prng choice;
	uint64_t first, count; /* its blocks */
	uint32_t *seen;	       /* acked of each, when a flush began */
	char *buf;
};

static struct model *model;
static struct counters counters;
static enum block_level level = BLOCK_ACKED;
static bool is_block_device;
static int disk;
static atomic_bool stop;
static atomic_bool wrong;
static atomic_int lazy; /* no flushes and no FUA for now */

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		atomic_fetch_xor(&lazy, 1);
	else
		atomic_store(&stop, true);
}

static size_t model_size(uint64_t blocks)
{
	return sizeof(struct model) + blocks * sizeof(struct block_state);
}

static int open_disk(const char *path, int flags)
{
	struct stat st;

	disk = open(path, flags | O_DIRECT | O_CLOEXEC);
	/* tmpfs has no O_DIRECT; the files of the tests may lie there. */
	if (disk < 0 && errno == EINVAL)
		disk = open(path, flags | O_CLOEXEC);
	if (disk < 0 || fstat(disk, &st)) {
		perror(path);
		return -1;
	}
	is_block_device = S_ISBLK(st.st_mode);
	return 0;
}

static struct model *map_model(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

static int model_create(const char *path, uint64_t seed, uint64_t offset, uint64_t blocks)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)model_size(blocks)))
		goto fail;
	model = map_model(fd, model_size(blocks));
	if (!model)
		goto fail;
	model->seed = seed;
	model->offset = offset;
	model->blocks = blocks;
	model->magic = MODEL_MAGIC;
	return 0;
fail:
	perror(path);
	return -1;
}

static int model_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		perror(path);
		return -1;
	}
	model = (size_t)st.st_size < sizeof(*model) ? NULL : map_model(fd, (size_t)st.st_size);
	if (!model || model->magic != MODEL_MAGIC ||
	    (size_t)st.st_size != model_size(model->blocks)) {
		fprintf(stderr, "%s: this is no model\n", path);
		return -1;
	}
	return 0;
}

static off_t byte_offset(uint64_t block)
{
	return (off_t)(model->offset + block * BLOCK_BYTES);
}

static void note_longest(uint64_t ms)
{
	uint64_t longest = atomic_load(&counters.longest_ms);

	while (ms > longest && !atomic_compare_exchange_weak(&counters.longest_ms, &longest, ms))
		;
}

static int whole(ssize_t n, size_t size)
{
	return n < 0 ? -errno : (size_t)n == size ? 0 : -ENODATA;
}

static int zero_range(uint64_t block, uint64_t run)
{
	uint64_t range[2] = { (uint64_t)byte_offset(block), run * BLOCK_BYTES };
	int ret;

	if (is_block_device)
		ret = ioctl(disk, BLKZEROOUT, range);
	else
		ret = fallocate(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)range[0],
				(off_t)range[1]);
	return ret ? -errno : 0;
}

static void say_wrong(const char *why)
{
	if (!atomic_exchange(&wrong, true)) {
		printf("%s\n", why);
		fflush(stdout);
	}
	atomic_store(&stop, true);
}

static void check_run(uint64_t block, uint64_t run, const char *buf, enum block_level l)
{
	char why[512];
	uint64_t i;

	for (i = 0; i < run; i++)
		if (!block_check(&model->block[block + i], l, model->seed, block + i,
				 buf + i * BLOCK_BYTES, why, sizeof(why))) {
			say_wrong(why);
			return;
		}
}

static int do_read(struct worker *w, uint64_t block, uint64_t run)
{
	size_t size = run * BLOCK_BYTES;
	int err = whole(pread(disk, w->buf, size, byte_offset(block)), size);

	if (!err)
		check_run(block, run, w->buf, level);
	return err;
}

/* A new version of each block is possible from now on. */
static void submit(uint64_t block, uint64_t run, bool zero)
{
	struct block_state *s = &model->block[block];

	for (; run; run--, s++) {
		s->newest++;
		if (zero)
			s->zeroed = s->newest;
	}
	atomic_thread_fence(memory_order_seq_cst);
}

static void acknowledge(uint64_t block, uint64_t run, bool durable)
{
	struct block_state *s = &model->block[block];

	for (; run; run--, s++) {
		s->acked = s->newest;
		if (durable)
			s->durable = s->newest;
	}
}

static int do_write(struct worker *w, uint64_t block, uint64_t run, bool fua)
{
	struct iovec iov = { w->buf, run * BLOCK_BYTES };
	uint64_t i;
	int err;

	submit(block, run, false);
	for (i = 0; i < run; i++)
		block_fill(model->seed, block + i, model->block[block + i].newest,
			   w->buf + i * BLOCK_BYTES);
	err = whole(pwritev2(disk, &iov, 1, byte_offset(block), fua ? RWF_DSYNC : 0), iov.iov_len);
	if (!err)
		acknowledge(block, run, fua);
	return err;
}

static int do_zero(uint64_t block, uint64_t run)
{
	int err;

	submit(block, run, true);
	err = zero_range(block, run);
	if (!err)
		acknowledge(block, run, false);
	return err;
}

/* A flush covers what had been completed when it began. */
static int do_flush(struct worker *w)
{
	struct block_state *s = &model->block[w->first];
	uint64_t i;

	for (i = 0; i < w->count; i++)
		w->seen[i] = s[i].acked;
	if (fdatasync(disk))
		return -errno;
	for (i = 0; i < w->count; i++)
		if (s[i].durable < w->seen[i])
			s[i].durable = w->seen[i];
	return 0;
}

static enum kind choose(struct prng *r)
{
	uint64_t n = prng_below(r, 100);

	if (n < 40)
		return KIND_READ;
	if (n < 80 || (atomic_load(&lazy) && (n < 88 || n >= 94)))
		return KIND_WRITE;
	if (n < 88)
		return KIND_FUA;
	return n < 94 ? KIND_ZERO : KIND_FLUSH;
}

static int do_one(struct worker *w, enum kind kind)
{
	uint64_t run = 1 + prng_below(&w->choice, MAX_RUN);
	uint64_t block;

	if (run > w->count)
		run = w->count;
	block = w->first + prng_below(&w->choice, w->count - run + 1);
	switch (kind) {
	case KIND_READ:
		return do_read(w, block, run);
	case KIND_WRITE:
		return do_write(w, block, run, false);
	case KIND_FUA:
		return do_write(w, block, run, true);
	case KIND_ZERO:
		return do_zero(block, run);
	case KIND_FLUSH:
	case KIND_MAX:
		break;
	}
	return do_flush(w);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	enum kind kind;
	uint64_t begin;
	int err, none;

	while (!atomic_load(&stop)) {
		kind = choose(&w->choice);
		begin = now_ms();
		err = do_one(w, kind);
		note_longest(now_ms() - begin);
		if (!err) {
			atomic_fetch_add(&counters.done[kind], 1);
			atomic_fetch_add(&model->completed, 1);
			continue;
		}
		none = 0;
		atomic_fetch_add(&counters.failed[kind], 1);
		atomic_compare_exchange_strong(&counters.first_error, &none, -err);
		/* A disk that fails everything at once is no reason to spin. */
		sleep_ms(20);
	}
	return NULL;
}

static int start_worker(struct worker *w, uint64_t i, uint64_t threads)
{
	w->first = model->blocks * i / threads;
	w->count = model->blocks * (i + 1) / threads - w->first;
	w->choice = prng_named(model->seed, i, UINT64_MAX);
	w->seen = calloc(w->count, sizeof(*w->seen));
	w->buf = aligned_alloc(BLOCK_BYTES, MAX_RUN * BLOCK_BYTES);
	if (!w->seen || !w->buf)
		return -ENOMEM;
	return -pthread_create(&w->thread, NULL, worker_main, w);
}

static void print_counters(void)
{
	uint64_t failed = 0;
	int i;

	for (i = 0; i < KIND_MAX; i++) {
		printf("%s=%" PRIuFAST64 " ", kind_name[i], counters.done[i]);
		failed += counters.failed[i];
	}
	printf("errors=%" PRIu64 " flush_errors=%" PRIuFAST64
	       " first_error=%s longest_ms=%" PRIuFAST64 "\n",
	       failed, counters.failed[KIND_FLUSH],
	       counters.first_error ? strerrorname_np(counters.first_error) : "none",
	       counters.longest_ms);
}

static int run_workers(uint64_t threads, uint64_t seconds)
{
	struct worker workers[MAX_THREADS] = { 0 };
	uint64_t begin = now_ms(), started, i;

	for (started = 0; started < threads; started++)
		if (start_worker(&workers[started], started, threads))
			break;
	if (started < threads)
		fprintf(stderr, "cannot start %" PRIu64 " threads\n", threads);
	else
		while (!atomic_load(&stop) && (!seconds || now_ms() - begin < seconds * 1000))
			sleep_ms(50);
	atomic_store(&stop, true);
	for (i = 0; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	for (i = 0; i < threads; i++) {
		free(workers[i].seen);
		free(workers[i].buf);
	}
	return started == threads ? 0 : -1;
}

static int run(const char *path, const char *model_path, char **argv)
{
	uint64_t size = 0, offset = 0, threads = 8, seconds = 0, seed = 1, durable = 0;
	const struct option_number options[] = {
		{ "size", &size, BLOCK_BYTES, UINT64_C(1) << 40 },
		{ "offset", &offset, 0, UINT64_C(1) << 50 },
		{ "threads", &threads, 1, MAX_THREADS },
		{ "seconds", &seconds, 0, 1000000 },
		{ "seed", &seed, 0, UINT64_MAX },
		{ "durable", &durable, 0, 1 },
		{ NULL, NULL, 0, 0 },
	};
	struct sigaction action = { .sa_handler = on_signal };

	if (options_parse(argv, options))
		return 2;
	if (size / BLOCK_BYTES < threads || offset % BLOCK_BYTES) {
		fprintf(stderr, "size= has to hold %d bytes for each thread, offset= a multiple\n",
			BLOCK_BYTES);
		return 2;
	}
	if (open_disk(path, O_RDWR) || model_create(model_path, seed, offset, size / BLOCK_BYTES))
		return 2;
	level = durable ? BLOCK_DURABLE : BLOCK_ACKED;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	if (run_workers(threads, seconds))
		return 2;
	print_counters();
	return atomic_load(&wrong) ? 1 : 0;
}

static int verify_all(char *buf)
{
	uint64_t block, run;
	size_t size;
	int err;

	for (block = 0; block < model->blocks && !atomic_load(&wrong); block += run) {
		run = model->blocks - block < MAX_RUN ? model->blocks - block : MAX_RUN;
		size = run * BLOCK_BYTES;
		err = whole(pread(disk, buf, size, byte_offset(block)), size);
		if (err) {
			fprintf(stderr, "block %" PRIu64 ": %s\n", block, strerror(-err));
			return 2;
		}
		check_run(block, run, buf, level);
	}
	return atomic_load(&wrong) ? 1 : 0;
}

static void print_states(void)
{
	uint64_t i, written = 0, uncertain = 0;

	for (i = 0; i < model->blocks; i++) {
		written += model->block[i].newest > 0;
		uncertain += model->block[i].newest > model->block[i].acked;
	}
	printf("blocks=%" PRIu64 " written=%" PRIu64 " uncertain=%" PRIu64 "\n", model->blocks,
	       written, uncertain);
}

static int verify(const char *path, const char *model_path, char **argv)
{
	uint64_t durable = 0;
	const struct option_number options[] = {
		{ "durable", &durable, 0, 1 },
		{ NULL, NULL, 0, 0 },
	};
	char *buf;
	int ret;

	if (options_parse(argv, options) || model_open(model_path) || open_disk(path, O_RDONLY))
		return 2;
	level = durable ? BLOCK_DURABLE : BLOCK_ACKED;
	buf = aligned_alloc(BLOCK_BYTES, MAX_RUN * BLOCK_BYTES);
	if (!buf)
		return 2;
	ret = verify_all(buf);
	free(buf);
	print_states();
	return ret;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "run"))
		return run(argv[2], argv[3], argv + 4);
	if (argc >= 4 && !strcmp(argv[1], "verify"))
		return verify(argv[2], argv[3], argv + 4);
	if (argc == 3 && !strcmp(argv[1], "progress")) {
		if (model_open(argv[2]))
			return 2;
		printf("%" PRIuFAST64 "\n", model->completed);
		return 0;
	}
	fprintf(stderr, "usage: raw_check run DISK MODEL size=BYTES [offset=BYTES] [threads=N]\n"
			"                     [seconds=S] [seed=N] [durable=1]\n"
			"       raw_check verify DISK MODEL [durable=1]\n"
			"       raw_check progress MODEL\n");
	return 2;
}
