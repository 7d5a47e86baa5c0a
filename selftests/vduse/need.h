/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NEED_*: like EXPECT_* of kselftest_harness.h, and the test ends there.
 * ASSERT_* would abort the process without FIXTURE_TEARDOWN, which has to run
 * here: it takes down devices that other threads may be waiting in.
 */
#ifndef VDUSE_TEST_NEED_H
#define VDUSE_TEST_NEED_H

#define NEED_EQ(expected, seen) EXPECT_EQ(expected, seen) return
#define NEED_NE(expected, seen) EXPECT_NE(expected, seen) return
#define NEED_LT(expected, seen) EXPECT_LT(expected, seen) return
#define NEED_LE(expected, seen) EXPECT_LE(expected, seen) return
#define NEED_GT(expected, seen) EXPECT_GT(expected, seen) return
#define NEED_GE(expected, seen) EXPECT_GE(expected, seen) return
#define NEED_TRUE(seen) EXPECT_TRUE(seen) return

#endif
