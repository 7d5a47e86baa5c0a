// SPDX-License-Identifier: MIT
/*
 * Error texts, log lines, numbers, iovecs and object pools.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"
#include "loop/iov.h"
#include "loop/pool.h"

/* --- errors --- */

static void test_error(void **state)
{
	struct error e = ERROR_INIT;
	char big[2 * ERROR_TEXT_SIZE];

	(void)state;
	assert_int_equal(err_set(&e, ENOENT, "no %s", "disk"), -ENOENT);
	assert_string_equal(e.text, "no disk");
	assert_int_equal(err_prefix(&e, "server %d", 7), -ENOENT);
	assert_string_equal(e.text, "server 7: no disk");
	assert_int_equal(err_set_errno(&e, EACCES, "cannot open"), -EACCES);
	assert_string_equal(e.text, "cannot open: Permission denied");
	/* The text may quote itself. */
	assert_int_equal(err_set(&e, EIO, "again: %s", e.text), -EIO);
	assert_string_equal(e.text, "again: cannot open: Permission denied");
	/* Nobody wants to know. */
	assert_int_equal(err_set(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_set_errno(NULL, EIO, "x"), -EIO);
	assert_int_equal(err_prefix(NULL, "x"), -EINVAL);
	e = ERROR_INIT;
	assert_int_equal(err_prefix(&e, "x"), -EINVAL);

	/* One line that drives no terminal, and is never too long. */
	err_set(&e, EIO, "a\nb\033[2Jc\x7f");
	assert_string_equal(e.text, "a?b?[2Jc?");
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	err_set_errno(&e, EIO, "%s", big);
	assert_int_equal(strlen(e.text), ERROR_TEXT_SIZE - 1);
	err_prefix(&e, "%s", big);
	assert_int_equal(strlen(e.text), ERROR_TEXT_SIZE - 1);
}

/* --- log --- */

static int saved_stderr, log_fd;

static void log_begin(void)
{
	saved_stderr = dup(STDERR_FILENO);
	log_fd = memfd_create("log", 0);
	assert_true(saved_stderr >= 0 && log_fd >= 0);
	dup2(log_fd, STDERR_FILENO);
}

static void log_end(char *text, size_t size)
{
	ssize_t n = pread(log_fd, text, size - 1, 0);

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(log_fd);
	assert_true(n >= 0);
	text[n] = '\0';
}

static void test_log(void **state)
{
	char text[16384], big[3000];

	(void)state;
	memset(big, 'y', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	log_begin();
	errno = EDOM;
	log_error("one %d", 1);
	log_info("two\nlines");
	log_debug("not shown");
	log_set_level(LOG_LEVEL_ERROR);
	log_warning("not shown either");
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("shown");
	log_set_level(LOG_LEVEL_INFO);
	log_info("%s", big);
	assert_int_equal(errno, EDOM);
	log_end(text, sizeof(text));
	assert_non_null(strstr(text, "error: one 1\n"));
	assert_non_null(strstr(text, "info: two?lines\n"));
	assert_non_null(strstr(text, "debug: shown\n"));
	assert_null(strstr(text, "not shown"));
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_true(strlen(text) < 1200);
}

static void test_log_level(void **state)
{
	(void)state;
	assert_int_equal(log_level_from_name("error"), LOG_LEVEL_ERROR);
	assert_int_equal(log_level_from_name("debug"), LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_from_name("Debug"), _LOG_LEVEL_INVALID);
	assert_int_equal(log_level_from_name(""), _LOG_LEVEL_INVALID);
}

static unsigned int lines(const char *text)
{
	unsigned int n = 0;

	while ((text = strchr(text, '\n'))) {
		n++;
		text++;
	}
	return n;
}

static void noisy(int i)
{
	log_warning_ratelimited("noise %d", i);
}

static void test_log_ratelimit(void **state)
{
	struct log_ratelimit rl = { 0 };
	unsigned int dropped = 99;
	char text[16384];

	(void)state;
	log_begin();
	for (int i = 0; i < 1000; i++)
		noisy(i);
	log_end(text, sizeof(text));
	assert_int_equal(lines(text), LOG_RATELIMIT_BURST);

	for (int i = 0; i < LOG_RATELIMIT_BURST; i++)
		assert_true(log_ratelimit_ok(&rl, &dropped));
	assert_int_equal(dropped, 0);
	for (int i = 0; i < 3; i++)
		assert_false(log_ratelimit_ok(&rl, &dropped));
	/* The window is over: one line goes, and says how many did not. */
	atomic_fetch_sub(&rl.window_start_ms, LOG_RATELIMIT_MS);
	assert_true(log_ratelimit_ok(&rl, &dropped));
	assert_int_equal(dropped, 3);
}

/* --- numbers --- */

static const struct {
	const char *text;
	int ret;
	uint64_t size;
} sizes[] = {
	{ "0", 0, 0 },
	{ "512", 0, 512 },
	{ "64k", 0, 65536 },
	{ "10M", 0, 10 << 20 },
	{ "1g", 0, 1 << 30 },
	{ "2T", 0, 2ull << 40 },
	{ "9223372036854775807", 0, INT64_MAX },
	{ "9223372036854775808", -ERANGE, 0 },
	{ "99999999999999999999999", -ERANGE, 0 },
	{ "9007199254740992k", -ERANGE, 0 },
	{ "8388608T", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "k", -EINVAL, 0 },
	{ "-1", -EINVAL, 0 },
	{ "+1", -EINVAL, 0 },
	{ " 1", -EINVAL, 0 },
	{ "1 ", -EINVAL, 0 },
	{ "1kb", -EINVAL, 0 },
	{ "1x", -EINVAL, 0 },
	{ "0x10", -EINVAL, 0 },
	{ "1.5M", -EINVAL, 0 },
};

static void test_sizes(void **state)
{
	struct error e = ERROR_INIT;
	uint64_t size;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int ret;

		size = 0;
		ret = parse_size(sizes[i].text, &size, &e);
		if (ret != sizes[i].ret || size != sizes[i].size)
			fail_msg("'%s': %d, %llu", sizes[i].text, ret, (unsigned long long)size);
	}
}

static void test_uints(void **state)
{
	struct error e = ERROR_INIT;
	unsigned int v = 77;

	(void)state;
	assert_int_equal(parse_uint("12", 1, 12, &v, &e), 0);
	assert_int_equal(v, 12);
	v = 77;
	assert_int_equal(parse_uint("0", 1, 12, &v, &e), -ERANGE);
	assert_string_equal(e.text, "'0' is not in 1...12");
	assert_int_equal(parse_uint("13", 1, 12, &v, &e), -ERANGE);
	assert_int_equal(parse_uint("99999999999999999999", 1, 12, &v, &e), -ERANGE);
	assert_int_equal(parse_uint("", 1, 12, &v, &e), -EINVAL);
	assert_int_equal(parse_uint("1x", 1, 12, &v, &e), -EINVAL);
	assert_int_equal(parse_uint("-1", 1, 12, &v, &e), -EINVAL);
	assert_int_equal(v, 77);
}

/* --- iovecs --- */

/* Every way to move a part into three pieces, against doing it byte by byte. */
static void test_iov(void **state)
{
	enum {
		TOTAL = 23
	};
	uint8_t memory[TOTAL], want[TOTAL], src[TOTAL];
	struct iovec iov[4] = {
		{ memory, 5 }, { memory + 5, 0 }, { memory + 5, 11 }, { memory + 16, 7 }
	};

	(void)state;
	assert_int_equal(iov_length(iov, 4), TOTAL);
	for (size_t skip = 0; skip <= TOTAL; skip++) {
		for (size_t len = 0; skip + len <= TOTAL; len++) {
			struct iovec out[4];
			size_t sliced;
			unsigned int n;

			for (size_t i = 0; i < TOTAL; i++)
				src[i] = (uint8_t)(i + 1);
			memset(memory, 0xff, TOTAL);
			memset(want, 0xff, TOTAL);
			memcpy(want + skip, src, len);
			iov_scatter(iov, 4, skip, src, len);
			assert_memory_equal(memory, want, TOTAL);

			memset(want + skip, 0, len);
			iov_zero(iov, 4, skip, len);
			assert_memory_equal(memory, want, TOTAL);

			n = iov_slice(iov, 4, skip, len, out, 4, &sliced);
			assert_int_equal(sliced, len);
			assert_int_equal(iov_length(out, n), len);
			if (len)
				assert_ptr_equal(out[0].iov_base, memory + skip);
		}
	}
}

static void test_iov_limits(void **state)
{
	uint8_t memory[8];
	struct iovec iov[2] = { { memory, 4 }, { memory + 4, 4 } }, out[1];
	size_t len;

	(void)state;
	assert_int_equal(iov_slice(iov, 2, 2, 6, out, 1, &len), 1);
	assert_int_equal(len, 2);
	assert_int_equal(iov_slice(iov, 2, 8, 0, out, 1, &len), 0);
	assert_int_equal(len, 0);
	iov[0].iov_len = SIZE_MAX;
	assert_true(iov_length(iov, 2) == SIZE_MAX);
}

/* Blocks are moved in pieces; the seams must not show. */
static void test_iov_large(void **state)
{
	enum {
		TOTAL = 10000
	};
	static uint8_t memory[TOTAL + 2], src[TOTAL];

	(void)state;
	for (size_t i = 0; i < TOTAL; i++)
		src[i] = (uint8_t)(i * 31 + i / 256);
	for (size_t len = 0; len <= TOTAL; len += len < 4100 ? 1 : 977) {
		struct iovec iov = { memory + 1, TOTAL };

		memset(memory, 0xaa, sizeof(memory));
		iov_scatter(&iov, 1, 0, src, len);
		assert_memory_equal(memory + 1, src, len);
		assert_int_equal(memory[0], 0xaa);
		assert_int_equal(memory[1 + len], 0xaa);
		iov_zero(&iov, 1, 0, len);
		for (size_t i = 0; i < len; i++)
			if (memory[1 + i])
				fail_msg("byte %zu of %zu is not zero", i, len);
		assert_int_equal(memory[1 + len], 0xaa);
	}
}

/* --- pool --- */

static void test_pool(void **state)
{
	struct pool pool = { 0 };
	uint8_t *objects[10];

	(void)state;
	assert_int_equal(pool_create(&pool, 0, 1), -EINVAL);
	assert_int_equal(pool_create(&pool, 1, 0), -EINVAL);
	assert_int_equal(pool_create(&pool, SIZE_MAX, 2), -EINVAL);
	assert_int_equal(pool_create(&pool, SIZE_MAX / 2, 4), -EINVAL);
	assert_int_equal(pool_create(&pool, 100, 10), 0);
	for (int i = 0; i < 10; i++) {
		objects[i] = pool_get(&pool);
		assert_non_null(objects[i]);
		assert_int_equal((uintptr_t)objects[i] % 64, 0);
		memset(objects[i], i, 100);
	}
	assert_null(pool_get(&pool));
	assert_int_equal(pool.available, 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(objects[i][99], i);
	/* The last one that came back is the first to go. */
	pool_put(&pool, objects[3]);
	pool_put(&pool, objects[7]);
	assert_int_equal(pool.available, 2);
	assert_ptr_equal(pool_get(&pool), objects[7]);
	assert_ptr_equal(pool_get(&pool), objects[3]);
	pool_destroy(&pool);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_error),	  cmocka_unit_test(test_log),
		cmocka_unit_test(test_log_level), cmocka_unit_test(test_log_ratelimit),
		cmocka_unit_test(test_sizes),	  cmocka_unit_test(test_uints),
		cmocka_unit_test(test_iov),	  cmocka_unit_test(test_iov_limits),
		cmocka_unit_test(test_iov_large), cmocka_unit_test(test_pool),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
