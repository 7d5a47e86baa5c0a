// SPDX-License-Identifier: MIT
/*
 * crc32c.c: bit by bit, reflected, initial and final value all ones.
 */
#include "base/crc32c.h"

#define POLYNOMIAL	0x82f63b78u

uint32_t crc32c(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t crc = ~0u;
	unsigned int bit;

	while (len--) {
		crc ^= *p++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
	}
	return ~crc;
}
