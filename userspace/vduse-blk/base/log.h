/* SPDX-License-Identifier: MIT */
/*
 * Log lines on standard error.
 *
 * One call is one line and one write(2), so lines of different threads do not
 * mix. Lines carry the level, and the prefix "<N>" that systemd understands
 * when standard error is the journal. Nothing is allocated. A message that a
 * guest or a server can cause at will goes through the rate-limited variants.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>

#include "base/util.h"

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
	_LOG_LEVEL_MAX,
	_LOG_LEVEL_INVALID = -1,
};

/**
 * log_set_level() - lines above this level are dropped (default: info)
 * @level: least important level that is still printed
 *
 * Any thread.
 */
void log_set_level(enum log_level level);

/**
 * log_get_level() - level that is printed
 *
 * Return: what log_set_level() set.
 */
enum log_level log_get_level(void);

/**
 * log_level_from_name() - "error", "warning", "info" or "debug"
 * @name: text from the command line or a file
 *
 * Return: the level, or _LOG_LEVEL_INVALID.
 */
enum log_level log_level_from_name(const char *name);

/**
 * log_write() - print one line; use the macros below
 * @level: importance
 * @fmt: printf format without newline; control characters are replaced
 *
 * Any thread. May block in write(2). Keeps errno.
 */
void log_write(enum log_level level, const char *fmt, ...) PRINTF_FORMAT(2, 3);

/* One per call site: at most LOG_RATELIMIT_BURST lines in LOG_RATELIMIT_MS, unless debugging. */
struct log_ratelimit {
	atomic_llong window_start_ms;
	atomic_uint printed;
	atomic_uint dropped;
};

#define LOG_RATELIMIT_MS    5000
#define LOG_RATELIMIT_BURST 10

/**
 * log_ratelimit_ok() - may this call site print now?
 * @rl: state of the call site
 * @ret_dropped: how many lines were dropped since the last one that was
 *		 printed; written only when the answer is true
 *
 * Any thread, lock-free.
 *
 * Return: true if the line may be printed.
 */
bool log_ratelimit_ok(struct log_ratelimit *rl, unsigned int *ret_dropped);

/**
 * log_ratelimit_pass() - log_ratelimit_ok() for a line of that level
 * @rl: state of the call site
 * @level: importance of the line
 *
 * Says how many lines were dropped, if any were, before the next one is printed.
 *
 * Return: true if the line may be printed.
 */
bool log_ratelimit_pass(struct log_ratelimit *rl, enum log_level level);

#define log_at(level, ...)                             \
	do {                                           \
		if ((level) <= log_get_level())        \
			log_write(level, __VA_ARGS__); \
	} while (0)

#define log_error(...)	 log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)	 log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	 log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

#define log_at_ratelimited(level, ...)                   \
	do {                                             \
		static struct log_ratelimit log_rl_;     \
		if (log_ratelimit_pass(&log_rl_, level)) \
			log_write(level, __VA_ARGS__);   \
	} while (0)

#define log_error_ratelimited(...)   log_at_ratelimited(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning_ratelimited(...) log_at_ratelimited(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info_ratelimited(...)    log_at_ratelimited(LOG_LEVEL_INFO, __VA_ARGS__)

#endif
