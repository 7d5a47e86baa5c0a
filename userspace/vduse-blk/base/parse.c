// SPDX-License-Identifier: MIT
/*
 * Numbers from text. strtoul() and its family accept signs, leading spaces and
 * octal; none of that belongs into an option, so digits are read here.
 */
#include "base/parse.h"

#include <errno.h>
#include <string.h>

/* Returns the first character behind the digits, NULL if there are none or too many. */
static const char *digits(const char *text, uint64_t *ret)
{
	uint64_t value = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value) ||
		    value > INT64_MAX)
			return NULL;
	}
	*ret = value;
	return p;
}

int parse_size(const char *text, uint64_t *ret_size, struct error *e)
{
	static const char suffixes[] = "kmgt";
	const char *end, *suffix;
	uint64_t value;

	end = digits(text, &value);
	if (!end)
		return err_set(e, ERANGE, "'%s' is too large", text);
	if (end == text)
		return err_set(e, EINVAL, "'%s' is not a size (like 512, 64k, 10M, 1G)", text);
	if (*end) {
		suffix = strchr(suffixes, *end | 0x20);
		if (!suffix || end[1])
			return err_set(e, EINVAL, "'%s' is not a size (like 512, 64k, 10M, 1G)",
				       text);
		for (const char *s = suffixes; s <= suffix; s++)
			if (__builtin_mul_overflow(value, 1024, &value) || value > INT64_MAX)
				return err_set(e, ERANGE, "'%s' is too large", text);
	}
	*ret_size = value;
	return 0;
}

int parse_uint(const char *text, unsigned int low, unsigned int high, unsigned int *ret_value,
	       struct error *e)
{
	const char *end;
	uint64_t value;

	end = digits(text, &value);
	if (end && (end == text || *end))
		return err_set(e, EINVAL, "'%s' is not a number", text);
	if (!end || value < low || value > high)
		return err_set(e, ERANGE, "'%s' is not in %u...%u", text, low, high);
	*ret_value = (unsigned int)value;
	return 0;
}
