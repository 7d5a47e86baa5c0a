// SPDX-License-Identifier: MIT
/*
 * The runtime folder: one daemon a name, left-overs are taken over, nothing
 * stays behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/util.h"
#include "cmd/runtime.h"
#include "transport/vduse_log.h"

static char root[64];

static int setup(void **state)
{
	(void)state;
	strcpy(root, "/tmp/test-runtime-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	/* Fails, and the test with it, when something was left in it. */
	return rmdir(root);
}

static int acquire(const char *name, struct runtime *r, struct error *e)
{
	*e = ERROR_INIT;
	return runtime_acquire(root, name, geteuid(), getegid(), r, e);
}

static void test_one_at_a_time(void **state)
{
	struct runtime first, second;
	char path[128], text[32];
	struct error e;
	struct stat st;
	pid_t pid = 0;

	(void)state;
	assert_int_equal(runtime_owner(root, "d0", &pid), 0);
	assert_int_equal(acquire("d0", &first, &e), 0);
	snprintf(path, sizeof(path), "%s/d0", root);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);

	assert_int_equal(runtime_owner(root, "d0", &pid), 1);
	assert_int_equal(pid, getpid());
	assert_int_equal(acquire("d0", &second, &e), -EBUSY);
	snprintf(text, sizeof(text), "process %d", (int)getpid());
	assert_non_null(strstr(e.text, text));

	/* Losing, it has changed nothing of the winner's. */
	assert_int_equal(runtime_share(&first, geteuid(), getegid(), &e), 0);
	assert_int_equal(acquire("d0", &second, &e), -EBUSY);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0710);

	/* Another name is another matter. */
	assert_int_equal(acquire("d1", &second, &e), 0);
	runtime_release(&second);

	runtime_release(&first);
	assert_int_equal(runtime_owner(root, "d0", &pid), 0);
	assert_int_not_equal(stat(path, &st), 0);
	assert_int_equal(acquire("d0", &first, &e), 0);
	runtime_release(&first);
}

static void test_killed_predecessor(void **state)
{
	char path[128];
	struct runtime r;
	struct error e;
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (!pid)
		_exit(acquire("d0", &r, &e) ? 1 : 0); /* leaves everything behind */
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	snprintf(path, sizeof(path), "%s/d0/lock", root);
	assert_int_equal(access(path, F_OK), 0);

	assert_int_equal(runtime_owner(root, "d0", &pid), 0);
	assert_int_equal(acquire("d0", &r, &e), 0);
	assert_int_equal(runtime_owner(root, "d0", &pid), 1);
	assert_int_equal(pid, getpid());
	runtime_release(&r);
}

static void test_symlink_is_not_followed(void **state)
{
	char path[128];
	struct runtime r;
	struct error e;

	(void)state;
	snprintf(path, sizeof(path), "%s/d0", root);
	assert_int_equal(symlink("/tmp", path), 0);
	assert_int_not_equal(acquire("d0", &r, &e), 0);
	assert_int_equal(unlink(path), 0);
}

/* A lock file that is another file's, too. */
static void test_hard_link_is_refused(void **state)
{
	char folder[128], lock[160], victim[128];
	struct runtime r;
	struct error e;
	struct stat st;
	int fd;

	(void)state;
	snprintf(folder, sizeof(folder), "%s/d0", root);
	snprintf(lock, sizeof(lock), "%s/lock", folder);
	snprintf(victim, sizeof(victim), "%s/victim", root);
	assert_int_equal(mkdir(folder, 0700), 0);
	fd = open(victim, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "precious", 8), 8);
	close(fd);
	assert_int_equal(link(victim, lock), 0);
	assert_int_equal(acquire("d0", &r, &e), -EPERM);
	assert_int_equal(stat(victim, &st), 0);
	assert_int_equal(st.st_size, 8);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(unlink(lock), 0);
	assert_int_equal(unlink(victim), 0);
	assert_int_equal(rmdir(folder), 0);
}

/* The folder of a device that a successor will want stays, with the log in it. */
static void test_kept(void **state)
{
	struct runtime r;
	struct error e;
	struct stat st;
	int fd;

	(void)state;
	assert_int_equal(acquire("d3", &r, &e), 0);
	fd = openat(r.dir_fd, VDUSE_LOG_NAME, O_CREAT | O_RDWR, 0600);
	assert_true(fd >= 0);
	close(fd);
	r.keep = true;
	runtime_release(&r);

	assert_int_equal(acquire("d3", &r, &e), 0);
	assert_false(r.keep);
	assert_int_equal(fstatat(r.dir_fd, VDUSE_LOG_NAME, &st, 0), 0);
	runtime_release(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_predecessor, setup, teardown),
		cmocka_unit_test_setup_teardown(test_symlink_is_not_followed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hard_link_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kept, setup, teardown),
	};

	return cmocka_run_group_tests_name("runtime", tests, NULL, NULL);
}
