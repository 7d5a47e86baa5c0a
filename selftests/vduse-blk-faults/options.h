/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Arguments of the form name=number: what the three programs share.
 */
#ifndef FAULTS_OPTIONS_H
#define FAULTS_OPTIONS_H

#include <stdint.h>

struct option_number {
	const char *name;
	uint64_t *value;
	uint64_t min, max;
};

/**
 * options_parse() - read name=number arguments
 * @argv: the first of them; ends with NULL
 * @table: the names that there are; ends with a NULL name
 *
 * Prints what is wrong on stderr.
 *
 * Return: 0 or -EINVAL.
 */
int options_parse(char **argv, const struct option_number *table);

#endif
