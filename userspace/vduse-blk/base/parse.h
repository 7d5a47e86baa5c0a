/* SPDX-License-Identifier: MIT */
/*
 * Numbers from text that came from outside.
 */
#ifndef BASE_PARSE_H
#define BASE_PARSE_H

#include "base/error.h"

/**
 * parse_size() - a number of bytes: "512", "64k", "10M", "1G", "2T"
 * @text: decimal digits and an optional suffix, powers of 1024; either case
 * @ret_size: written only on success
 * @e: error text
 *
 * Return: 0, -EINVAL, or -ERANGE when it exceeds 2^63 - 1.
 */
int parse_size(const char *text, uint64_t *ret_size, struct error *e);

/**
 * parse_duration_ms() - a duration: "5", "0.25", "250ms", "1.5s", "2min", "1h"
 * @text: decimal digits, perhaps with a point and more digits, and an optional
 *	unit; seconds without one
 * @ret_ms: milliseconds; written only on success
 * @e: error text
 *
 * What is finer than a millisecond is refused, not rounded.
 *
 * Return: 0, -EINVAL, or -ERANGE when it exceeds 2^32 - 1 ms.
 */
int parse_duration_ms(const char *text, uint64_t *ret_ms, struct error *e);

/**
 * parse_uint() - a decimal number within limits
 * @text: digits only
 * @low: smallest accepted value
 * @high: largest accepted value
 * @ret_value: written only on success
 * @e: error text
 *
 * Return: 0, -EINVAL or -ERANGE.
 */
int parse_uint(const char *text, unsigned int low, unsigned int high, unsigned int *ret_value,
	       struct error *e);

#endif
