// SPDX-License-Identifier: MIT
/*
 * The SIGBUS guard: a mapping whose file was cut short, inside and outside a
 * guarded range.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/util.h"
#include "transport/sigbus.h"

/* @pages mapped pages of a file that is empty by now. */
static volatile char *map_cut_file(size_t size)
{
	int fd = memfd_create("cut", MFD_CLOEXEC);
	void *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(ftruncate(fd, 0), 0);
	close(fd);
	return p;
}

static void test_guarded(void **state)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 4 * page;
	volatile char *p = map_cut_file(size);

	(void)state;
	assert_int_equal(sigbus_guard_install(NULL), 0);
	assert_int_equal(sigbus_guard_add((const void *)p, size), 0);
	assert_int_equal(p[0], 0);
	p[size - 1] = 7;
	assert_int_equal(p[size - 1], 7);
	assert_int_equal(sigbus_guard_hits(), 2);
	sigbus_guard_del((const void *)p, size);
	munmap((void *)p, size);
}

static void test_not_guarded(void **state)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	volatile char *p = map_cut_file(page);
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(sigbus_guard_add((const void *)p, page), 0);
	sigbus_guard_del((const void *)p, page);
	pid = fork();
	if (!pid) {
		sigbus_guard_install(NULL);
		p[0] = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
	munmap((void *)p, page);
}

static void test_table_full(void **state)
{
	unsigned int added = 0;

	(void)state;
	while (!sigbus_guard_add((const void *)(uintptr_t)(4096 * (added + 1)), 4096)) {
		added++;
		assert_true(added < 1000000);
	}
	assert_true(added >= 1024);
	while (added) {
		sigbus_guard_del((const void *)(uintptr_t)(4096 * added), 4096);
		added--;
	}
	assert_int_equal(sigbus_guard_add((const void *)(uintptr_t)4096, 4096), 0);
	sigbus_guard_del((const void *)(uintptr_t)4096, 4096);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guarded),
		cmocka_unit_test(test_not_guarded),
		cmocka_unit_test(test_table_full),
	};

	return cmocka_run_group_tests_name("sigbus", tests, NULL, NULL);
}
