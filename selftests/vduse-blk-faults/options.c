// SPDX-License-Identifier: GPL-2.0-only
/*
 * Arguments of the form name=number: see options.h.
 */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse_one(const char *arg, const struct option_number *o)
{
	const char *text = arg + strlen(o->name) + 1;
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < o->min || value > o->max) {
		fprintf(stderr, "%s: a number from %llu to %llu is wanted\n", arg,
			(unsigned long long)o->min, (unsigned long long)o->max);
		return -EINVAL;
	}
	*o->value = value;
	return 0;
}

int options_parse(char **argv, const struct option_number *table)
{
	const struct option_number *o;
	size_t len;

	for (; *argv; argv++) {
		for (o = table; o->name; o++) {
			len = strlen(o->name);
			if (!strncmp(*argv, o->name, len) && (*argv)[len] == '=')
				break;
		}
		if (!o->name) {
			fprintf(stderr, "%s: unknown argument\n", *argv);
			return -EINVAL;
		}
		if (parse_one(*argv, o))
			return -EINVAL;
	}
	return 0;
}
