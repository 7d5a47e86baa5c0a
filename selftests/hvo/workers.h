/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Processes that use huge pages in every way that takes references to them,
 * while something else happens to their vmemmap. Each verifies its data all
 * the time.
 */
#ifndef HVO_TEST_WORKERS_H
#define HVO_TEST_WORKERS_H

/* So many 2 MiB pages may all of them together have at once. */
#define WORKERS_PAGES 48

/**
 * workers_start() - begin
 * @skip: called with a worker's name and the reason why it cannot run here
 *
 * Return: how many run, or -errno.
 */
int workers_start(void (*skip)(const char *name, const char *reason));

/* Rounds of the slowest worker until now. */
unsigned long workers_rounds(void);

/* How many have ended by themselves, which none does unless it failed. */
int workers_failed(void);

/**
 * workers_stop() - let them finish the round they are in
 *
 * Return: how many failed; each has said why.
 */
int workers_stop(void);

#endif
