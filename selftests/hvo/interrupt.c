// SPDX-License-Identifier: GPL-2.0-only
/*
 * A write to vm.hvo.enabled that a signal interrupts: what was done stays done
 * and is counted, the direction is in force, and a second write goes on.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "util.h"

/* Enough for a signal to arrive in between, on whatever machine. */
#define POOL 768
#define TRIES 20

FIXTURE(interrupt) {};
FIXTURE_SETUP(interrupt)
{
	ASSERT_EQ(0, pool_set(KB_2M, ALL_NODES, POOL));
	ASSERT_EQ(0, hvo_set("batch", 1));
}
FIXTURE_TEARDOWN(interrupt)
{
	hvo_set("enabled", 0);
	hvo_set("batch", 64);
	pool_set(KB_2M, ALL_NODES, 0);
}

static long optimized(void)
{
	return hvo_figure(KB_2M, ALL_NODES, "optimized");
}

static void ignore_it(int sig)
{
	(void)sig;
}

/* The child's status is the errno of its write. */
static pid_t start_writing(int value)
{
	/* No SA_RESTART, or there would be nothing to see. */
	struct sigaction action = { .sa_handler = ignore_it };
	pid_t pid = fork();

	if (pid)
		return pid;
	sigaction(SIGUSR1, &action, NULL);
	_exit(-hvo_set("enabled", value));
}

/*
 * Writes, and sends a signal once the first folio has changed sides. Return:
 * the write's errno, or -1.
 */
static int interrupted_write(int value)
{
	long before = optimized();
	int status;
	pid_t pid = start_writing(value);

	if (pid < 0)
		return -1;
	while (optimized() == before && !waitpid(pid, &status, WNOHANG))
		;
	if (optimized() == before)
		return -1;
	kill(pid, SIGUSR1);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

/* Tries until a signal came in the middle, from where all are on the other side. */
static void expect_interruption(struct __test_metadata *_metadata, int value)
{
	const long all = value ? POOL : 0;
	int err = 0, i;

	for (i = 0; i < TRIES; i++) {
		ASSERT_EQ(0, hvo_set("enabled", !value));
		ASSERT_EQ(POOL - all, optimized());
		err = interrupted_write(value);
		if (err)
			break;
		TH_LOG("the write was faster than the signal");
	}
	EXPECT_EQ(EINTR, err);
	EXPECT_LT(0, optimized());
	EXPECT_GT(POOL, optimized());
	EXPECT_EQ(value, hvo_get("enabled"));
	EXPECT_EQ(optimized() * hvo_saving(KB_2M),
		  hvo_figure(ALL_SIZES, ALL_NODES, "saved_kB"));

	EXPECT_EQ(0, hvo_set("enabled", value));
	EXPECT_EQ(value, hvo_get("enabled"));
	EXPECT_EQ(all, optimized());
	EXPECT_EQ(all * hvo_saving(KB_2M), hvo_figure(ALL_SIZES, ALL_NODES, "saved_kB"));
}

TEST_F_TIMEOUT(interrupt, while_optimizing, PATIENCE)
{
	expect_interruption(_metadata, 1);
}

TEST_F_TIMEOUT(interrupt, while_restoring, PATIENCE)
{
	expect_interruption(_metadata, 0);
}

/* After an interrupted 0 the module is still bound to its folios. */
TEST_F_TIMEOUT(interrupt, the_module_stays, PATIENCE)
{
	int i;

	for (i = 0; i < TRIES; i++) {
		ASSERT_EQ(0, hvo_set("enabled", 1));
		if (interrupted_write(0) == EINTR)
			break;
	}
	EXPECT_LT(0, optimized());
	EXPECT_EQ(-EWOULDBLOCK, hvo_unload());
	EXPECT_EQ(0, hvo_set("enabled", 0));
}

FIXTURE(the_end) {};
FIXTURE_SETUP(the_end) {}
FIXTURE_TEARDOWN(the_end) {}

TEST_F_TIMEOUT(the_end, nothing_is_left, PATIENCE)
{
	EXPECT_EQ(0, hvo_end());
}

HVO_MAIN
