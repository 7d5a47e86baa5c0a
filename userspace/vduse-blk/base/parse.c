// SPDX-License-Identifier: MIT
/*
 * Numbers from text. strtoul() and its family accept signs, leading spaces and
 * octal; none of that belongs into an option, so digits are read here.
 */
#include "base/parse.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

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

static const struct {
	const char *suffix;
	uint64_t ms;
} units[] = {
	{ "", 1000 },
	{ "ms", 1 },
	{ "s", 1000 },
	{ "min", 60 * 1000 },
	{ "h", 60 * 60 * 1000 },
};

/* "whole[.fraction]": the fraction is counted in parts of @ret_parts. */
static const char *decimal(const char *text, uint64_t *ret_whole, uint64_t *ret_fraction,
			   uint64_t *ret_parts)
{
	const char *end = digits(text, ret_whole), *point;

	if (!end) { /* too long, whatever the unit */
		*ret_whole = INT64_MAX;
		end = text + strspn(text, "0123456789");
	}
	*ret_fraction = 0;
	*ret_parts = 1;
	if (end == text || *end != '.')
		return end == text ? NULL : end;
	point = end;
	end = digits(point + 1, ret_fraction);
	if (!end || end == point + 1 || end - point > 10) /* nor more than 9 decimals */
		return NULL;
	while (++point < end)
		*ret_parts *= 10;
	return end;
}

int parse_duration_ms(const char *text, uint64_t *ret_ms, struct error *e)
{
	uint64_t whole, fraction, parts, ms;
	const char *end = decimal(text, &whole, &fraction, &parts);

	for (size_t i = 0; end && i < ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].suffix))
			continue;
		if (fraction * units[i].ms % parts)
			return err_set(e, EINVAL, "'%s' is finer than a millisecond", text);
		if (__builtin_mul_overflow(whole, units[i].ms, &ms) ||
		    __builtin_add_overflow(ms, fraction * units[i].ms / parts, &ms) ||
		    ms > UINT32_MAX)
			return err_set(e, ERANGE, "'%s' is too long", text);
		*ret_ms = ms;
		return 0;
	}
	return err_set(e, EINVAL, "'%s' is not a duration (like 5, 0.25, 250ms, 1.5s, 2min)", text);
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
