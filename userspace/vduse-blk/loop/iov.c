// SPDX-License-Identifier: MIT
/*
 * Iovec helpers. The caller has validated the ranges, so a walk that would
 * leave the array is a bug of ours; it stops at the end instead of going on.
 *
 * memcpy() and memset() of a block take the C library's string-instruction
 * path above 2 KiB or so. Blocks here are typically 4 KiB that were just
 * received, where vector moves are no slower on hardware and several times
 * cheaper under emulation; so large blocks are moved in pieces.
 */
#include "loop/iov.h"

#include <string.h>

#define PIECE	      1024
#define SMALLEST_PAGE 4096

static void copy(uint8_t *dst, const uint8_t *src, size_t len)
{
	for (; len > PIECE; len -= PIECE, dst += PIECE, src += PIECE)
		memcpy(dst, src, PIECE);
	memcpy(dst, src, len);
}

static void clear(uint8_t *dst, size_t len)
{
	for (; len > PIECE; len -= PIECE, dst += PIECE)
		memset(dst, 0, PIECE);
	memset(dst, 0, len);
}

size_t iov_length(const struct iovec *iov, unsigned int niov)
{
	size_t sum = 0;

	for (unsigned int i = 0; i < niov; i++)
		if (__builtin_add_overflow(sum, iov[i].iov_len, &sum))
			return SIZE_MAX;
	return sum;
}

void iov_scatter(const struct iovec *iov, unsigned int niov, size_t skip, const void *src,
		 size_t len)
{
	const uint8_t *from = src;

	for (; niov && len; iov++, niov--) {
		size_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = min(len, iov->iov_len - skip);
		copy((uint8_t *)iov->iov_base + skip, from, n);
		from += n;
		len -= n;
		skip = 0;
	}
}

void iov_gather(const struct iovec *iov, unsigned int niov, size_t skip, void *dst, size_t len)
{
	uint8_t *to = dst;

	for (; niov && len; iov++, niov--) {
		size_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = min(len, iov->iov_len - skip);
		copy(to, (const uint8_t *)iov->iov_base + skip, n);
		to += n;
		len -= n;
		skip = 0;
	}
}

void iov_zero(const struct iovec *iov, unsigned int niov, size_t skip, size_t len)
{
	for (; niov && len; iov++, niov--) {
		size_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = min(len, iov->iov_len - skip);
		clear((uint8_t *)iov->iov_base + skip, n);
		len -= n;
		skip = 0;
	}
}

static void touch(volatile uint8_t *p, bool write)
{
	const uint8_t byte = *p;

	if (write)
		*p = byte;
}

void iov_touch(const struct iovec *iov, unsigned int niov, bool write)
{
	for (; niov; iov++, niov--) {
		uint8_t *base = iov->iov_base;

		for (size_t at = 0; at < iov->iov_len; at += SMALLEST_PAGE)
			touch(base + at, write);
		if (iov->iov_len)
			touch(base + iov->iov_len - 1, write);
	}
}

unsigned int iov_slice(const struct iovec *iov, unsigned int niov, size_t skip, size_t len,
		       struct iovec *out, unsigned int max, size_t *ret_len)
{
	unsigned int used = 0;
	size_t total = 0;

	for (; niov && total < len && used < max; iov++, niov--) {
		size_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = min(len - total, iov->iov_len - skip);
		out[used].iov_base = (uint8_t *)iov->iov_base + skip;
		out[used].iov_len = n;
		used++;
		total += n;
		skip = 0;
	}
	*ret_len = total;
	return used;
}
