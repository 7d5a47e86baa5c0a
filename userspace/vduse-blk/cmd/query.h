/* SPDX-License-Identifier: MIT */
/*
 * What the commands that talk to a daemon have in common.
 */
#ifndef VDUSE_BLK_CMD_QUERY_H
#define VDUSE_BLK_CMD_QUERY_H

#include <jansson.h>
#include <stdio.h>

#include "base/error.h"
#include "cmd/options.h"

/**
 * query_begin() - arguments and --help
 * @argc:	number of arguments
 * @argv:	arguments
 * @takes:	QUERY_*
 * @usage:	what --help prints
 * @ret_options: written only when the command is to go on
 * @ret_status:	exit status; written only when it is not
 *
 * Return: true if the command is to go on.
 */
bool query_begin(int argc, char **argv, unsigned int takes, const char *usage,
		 struct query_options *ret_options, int *ret_status);

/**
 * query_daemon() - ask a daemon; errors are printed
 * @name:	of the device
 * @request:	a JSON object; freed here
 * @limit_ms:	see control_call()
 *
 * Return: the answer, which the caller owns, or NULL.
 */
json_t *query_daemon(const char *name, json_t *request, unsigned int limit_ms);

/**
 * query_print_json() - for --json
 * @document: printed with a newline
 */
void query_print_json(const json_t *document);

/**
 * query_end() - has everything been written to standard output?
 * @status:	exit status so far
 *
 * A reader that has seen enough (head) is no reason to complain.
 *
 * Return: exit status.
 */
int query_end(int status);

#endif
