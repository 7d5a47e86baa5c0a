/* SPDX-License-Identifier: MIT */
/*
 * Runs nbdkit for a test: in a temporary folder, on a UNIX socket or a
 * loopback port, gone when the test is.
 */
#ifndef TESTS_NBDKIT_H
#define TESTS_NBDKIT_H

#include <sys/types.h>

#include "base/util.h"

enum nbdkit_address {
	NBDKIT_UNIX,
	NBDKIT_IPV4,
	NBDKIT_IPV6,
};

struct nbdkit {
	pid_t pid;
	char folder[64];
	char uri[256]; /* "%s" stands for the export name */
	char command[2048];
};

/**
 * nbdkit_installed() - is there anything to test against?
 *
 * Return: true if nbdkit can be run.
 */
bool nbdkit_installed(void);

/**
 * nbdkit_start() - start and wait until it listens
 * @kit: to fill in
 * @address: where it listens
 * @arguments: separated by single spaces; "%D" becomes the temporary folder
 *
 * Return: 0 or -errno (-ETIMEDOUT, -ECHILD when it did not start).
 */
int nbdkit_start(struct nbdkit *kit, enum nbdkit_address address, const char *arguments);

/**
 * nbdkit_kill() - kill -9
 * @kit: started; its folder stays
 */
void nbdkit_kill(struct nbdkit *kit);

/**
 * nbdkit_restart() - start it again at the same address and wait until it listens
 * @kit: killed
 * @append: arguments to add to those of nbdkit_start() (the last value of a
 *	    parameter may count, or not: that is the plugin's business); NULL: none
 *
 * Return: 0 or -errno.
 */
int nbdkit_restart(struct nbdkit *kit, const char *append);

/**
 * nbdkit_stop() - end it and remove the folder
 * @kit: started, or zeroed memory
 */
void nbdkit_stop(struct nbdkit *kit);

#endif
