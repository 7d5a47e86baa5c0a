// SPDX-License-Identifier: GPL-2.0-only
/*
 * usage: log_replay LOG IMAGE COPY MARK [subsets=N] [seed=N] [boundaries=N] -- COMMAND...
 *
 * Power losses of a disk, one after the other. LOG is that of dm-log-writes,
 * IMAGE is what the disk was when logging began; it is brought forward. At
 * every boundary (a flush or a FUA write, write_log.h) behind the mark MARK
 * ("": from the beginning) the image is copied to COPY and
 *
 *	COMMAND... COPY LAST
 *
 * is run, where LAST is the last mark before the next boundary (what a mark
 * says is durable cannot depend on what comes after it); and again for so many
 * seeded subsets of the writes that follow, up to the next boundary. boundaries:
 * at most so many of them, spread evenly (0: all).
 *
 * Prints one line of key=value. Exit status: 0 each COMMAND succeeded, 1 one
 * failed (it says at which entry and seed; COPY is left as it was then), 2 it
 * could not be done.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "options.h"
#include "write_log.h"

#define MAX_ARGS 64

struct replay {
	struct write_log log;
	const char *image_path, *copy_path;
	int image;
	char *command[MAX_ARGS + 3]; /* two more are filled in for each run */
	int command_len;
	uint64_t subsets, seed;
	uint64_t checked_boundaries, checked_subsets;
};

static int copy_blocks(int from, int to, off_t size)
{
	static char buf[1 << 16];
	static const char zero[sizeof(buf)];
	off_t at;
	ssize_t n;

	for (at = 0; at < size; at += n) {
		n = pread(from, buf, sizeof(buf), at);
		if (n <= 0)
			return n ? -errno : -ENODATA;
		/* The copy is new, so what is zero can stay a hole. */
		if (memcmp(buf, zero, (size_t)n) && pwrite(to, buf, (size_t)n, at) != n)
			return errno ? -errno : -EIO;
	}
	return 0;
}

/* Return: descriptor of a new copy of the image, or -errno. */
static int make_copy(struct replay *r)
{
	struct stat st;
	int fd, err;

	if (fstat(r->image, &st))
		return -errno;
	fd = open(r->copy_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = ftruncate(fd, st.st_size) ? -errno : copy_blocks(r->image, fd, st.st_size);
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

/* Return: 0 the command succeeded, 1 it did not, or -errno. */
static int run_command(struct replay *r, const char *mark)
{
	int status;
	pid_t pid;

	r->command[r->command_len] = (char *)r->copy_path;
	r->command[r->command_len + 1] = (char *)mark;
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		execvp(r->command[0], r->command);
		perror(r->command[0]);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return status ? 1 : 0;
}

/* One power loss behind entry @at. @subset 0: nothing of what follows; else its number. */
static int check_one(struct replay *r, size_t at, size_t end, const char *mark, uint64_t subset)
{
	int fd, ret = 0;

	fd = make_copy(r);
	if (fd < 0)
		return fd;
	if (subset)
		ret = write_log_apply_subset(&r->log, at + 1, end, r->seed + subset, fd);
	close(fd);
	if (ret < 0)
		return ret;
	ret = run_command(r, mark);
	if (ret > 0)
		printf("the check fails for a power loss behind entry %zu, next boundary %zu, %s%" PRIu64
		       ", mark '%s'\n",
		       at, end, subset ? "subset with seed " : "without what follows, seed ",
		       r->seed + subset, mark);
	return ret;
}

static size_t next_boundary(const struct write_log *log, size_t from)
{
	while (from < log->count && !write_entry_is_boundary(&log->entry[from]))
		from++;
	return from;
}

static bool any_effect(const struct write_log *log, size_t from, size_t end)
{
	for (; from < end; from++)
		if (write_entry_has_effect(&log->entry[from]))
			return true;
	return false;
}

static int check_boundary(struct replay *r, size_t at, const char *mark)
{
	size_t end = next_boundary(&r->log, at + 1);
	uint64_t i;
	int ret;

	ret = check_one(r, at, end, mark, 0);
	if (ret)
		return ret;
	r->checked_boundaries++;
	/* Without writes the subsets are all the same. */
	for (i = 1; i <= r->subsets && any_effect(&r->log, at + 1, end); i++) {
		ret = check_one(r, at, end, mark, i);
		if (ret)
			return ret;
		r->checked_subsets++;
	}
	return 0;
}

/* The last mark in [0, @end), or "". */
static const char *last_mark(const struct write_log *log, size_t end)
{
	while (end--)
		if (log->entry[end].flags & WRITE_LOG_MARK)
			return log->entry[end].mark;
	return "";
}

/* Where checking begins, or the number of entries if there is no such mark. */
static size_t find_start(const struct write_log *log, const char *mark)
{
	size_t i;

	if (!*mark)
		return 0;
	for (i = 0; i < log->count; i++)
		if (log->entry[i].flags & WRITE_LOG_MARK && !strcmp(log->entry[i].mark, mark))
			return i;
	return log->count;
}

static int replay(struct replay *r, size_t start, uint64_t limit)
{
	uint64_t total = 0, number = 0;
	size_t i;
	int ret;

	for (i = start; i < r->log.count; i++)
		total += write_entry_is_boundary(&r->log.entry[i]);
	if (!limit || limit > total)
		limit = total;
	for (i = 0; i < r->log.count; i++) {
		ret = write_log_apply(&r->log, &r->log.entry[i], r->image);
		if (ret)
			return ret;
		if (i < start || !write_entry_is_boundary(&r->log.entry[i]))
			continue;
		/* The k-th of total is checked where k * limit / total steps up. */
		number++;
		if (number * limit / total == (number - 1) * limit / total)
			continue;
		ret = check_boundary(r, i, last_mark(&r->log, next_boundary(&r->log, i + 1)));
		if (ret)
			return ret;
	}
	printf("entries=%zu boundaries=%" PRIu64 " checked=%" PRIu64 " subsets=%" PRIu64 "\n",
	       r->log.count, total, r->checked_boundaries, r->checked_subsets);
	/* A log in which nothing was flushed proves nothing. */
	return total ? 0 : -ENODATA;
}

static int split_arguments(struct replay *r, char **argv)
{
	while (*argv && strcmp(*argv, "--"))
		argv++;
	if (!*argv)
		return -EINVAL;
	*argv++ = NULL;
	for (; *argv; argv++) {
		if (r->command_len == MAX_ARGS)
			return -E2BIG;
		r->command[r->command_len++] = *argv;
	}
	return r->command_len ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct replay r = { .seed = 1 };
	uint64_t boundaries = 0;
	const struct option_number options[] = {
		{ "subsets", &r.subsets, 0, 1000000 },
		{ "seed", &r.seed, 0, UINT64_MAX / 2 },
		{ "boundaries", &boundaries, 0, 1000000 },
		{ NULL, NULL, 0, 0 },
	};
	char why[256];
	size_t start;
	int ret;

	if (argc < 7 || split_arguments(&r, argv + 5) || options_parse(argv + 5, options)) {
		fprintf(stderr, "usage: log_replay LOG IMAGE COPY MARK [subsets=N] [seed=N] "
				"[boundaries=N] -- COMMAND...\n");
		return 2;
	}
	r.image_path = argv[2];
	r.copy_path = argv[3];
	if (write_log_open(argv[1], &r.log, why, sizeof(why))) {
		fprintf(stderr, "%s: %s\n", argv[1], why);
		return 2;
	}
	start = find_start(&r.log, argv[4]);
	r.image = open(r.image_path, O_RDWR | O_CLOEXEC);
	ret = r.image < 0 ? -errno : 0;
	if (!ret && start == r.log.count)
		ret = -ENOENT;
	if (!ret)
		ret = replay(&r, start, boundaries);
	if (ret < 0)
		fprintf(stderr, "%s, %s, mark '%s': %s\n", argv[1], r.image_path, argv[4],
			strerror(-ret));
	write_log_close(&r.log);
	return ret < 0 ? 2 : ret;
}
