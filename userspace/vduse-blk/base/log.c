// SPDX-License-Identifier: MIT
/*
 * Log lines: composed in a buffer on the stack, written with one write(2).
 * The level is one word that any thread may change. The state of
 * a rate-limited call site is shared by all threads that pass it; its counters
 * are atomic, and a race between two threads at the turn of a window costs at
 * most a line more or less.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOG_LINE_MAX 1024

static atomic_int max_level = LOG_LEVEL_INFO;

static const char *const level_names[_LOG_LEVEL_MAX] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

/* What sd-daemon(3) calls them. */
static const char *const journal_prefix[_LOG_LEVEL_MAX] = {
	[LOG_LEVEL_ERROR] = "<3>",
	[LOG_LEVEL_WARNING] = "<4>",
	[LOG_LEVEL_INFO] = "<6>",
	[LOG_LEVEL_DEBUG] = "<7>",
};

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&max_level, memory_order_relaxed);
}

enum log_level log_level_from_name(const char *name)
{
	for (int i = 0; i < _LOG_LEVEL_MAX; i++)
		if (!strcmp(name, level_names[i]))
			return i;
	return _LOG_LEVEL_INVALID;
}

/* The journal sets JOURNAL_STREAM for what it captures; a terminal wants no prefix. */
static bool to_journal(void)
{
	static atomic_int cached = -1;
	int known = atomic_load_explicit(&cached, memory_order_relaxed);

	if (known < 0) {
		known = getenv("JOURNAL_STREAM") != NULL;
		atomic_store_explicit(&cached, known, memory_order_relaxed);
	}
	return known;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	int saved_errno = errno;
	char line[LOG_LINE_MAX];
	size_t used, start;
	va_list ap;

	used = (size_t)snprintf(line, sizeof(line),
				"%s%s: ", to_journal() ? journal_prefix[level] : "",
				level_names[level]);
	start = used;
	va_start(ap, fmt);
	vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
	va_end(ap);
	used += strlen(line + used);

	for (size_t i = start; i < used; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[used++] = '\n';

	/* Nobody is left to be told when standard error is gone. */
	for (size_t done = 0; done < used;) {
		ssize_t n = write(STDERR_FILENO, line + done, used - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	errno = saved_errno;
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

bool log_ratelimit_ok(struct log_ratelimit *rl, unsigned int *ret_dropped)
{
	long long now = now_ms();
	long long start = atomic_load(&rl->window_start_ms);

	/* Who debugs wants to see everything. */
	if (max_level == LOG_LEVEL_DEBUG) {
		*ret_dropped = 0;
		return true;
	}
	if (!start || now - start >= LOG_RATELIMIT_MS) {
		if (atomic_compare_exchange_strong(&rl->window_start_ms, &start, now))
			atomic_store(&rl->printed, 0);
	}
	if (atomic_fetch_add(&rl->printed, 1) >= LOG_RATELIMIT_BURST) {
		atomic_fetch_add(&rl->dropped, 1);
		return false;
	}
	*ret_dropped = atomic_exchange(&rl->dropped, 0);
	return true;
}

bool log_ratelimit_pass(struct log_ratelimit *rl, enum log_level level)
{
	unsigned int dropped;

	if (level > max_level || !log_ratelimit_ok(rl, &dropped))
		return false;
	if (dropped)
		log_write(level, "%u similar lines were dropped", dropped);
	return true;
}
