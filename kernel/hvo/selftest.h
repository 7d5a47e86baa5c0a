/* SPDX-License-Identifier: GPL-2.0-only */
/* What the module tries on folios of its own when it is loaded. */
#ifndef HVO_SELFTEST_H
#define HVO_SELFTEST_H

/**
 * hvo_selftest_run() - optimize and restore folios of our own
 *
 * Compares the struct pages before and after. Where the kernel has HVO itself,
 * its restore is tried, too: one that leaves wrong struct pages is reported
 * (our hooks restore in its place while the module is loaded).
 *
 * Context: module init, before anything is optimized and with the hooks in
 * place; sleeps.
 * Return: 0; -EIO if our own restore is wrong (the module must not load);
 * -ENOMEM.
 */
int hvo_selftest_run(void);

/** hvo_selftest_result() - one line without newline, for the log and sysfs */
const char *hvo_selftest_result(void);

#endif /* HVO_SELFTEST_H */
