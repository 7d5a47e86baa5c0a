/* SPDX-License-Identifier: MIT */
/*
 * Moving bytes into memory that is described by an iovec array.
 *
 * In all functions @skip is the first byte within the memory that @iov
 * describes; @skip + @len must not exceed what it describes.
 */
#ifndef LOOP_IOV_H
#define LOOP_IOV_H

#include <sys/uio.h>

#include "base/util.h"

/**
 * iov_length() - bytes that an array describes
 * @iov: array
 * @niov: its entries
 *
 * Return: the sum, SIZE_MAX if it overflows.
 */
size_t iov_length(const struct iovec *iov, unsigned int niov);

/**
 * iov_scatter() - copy into the described memory
 * @iov: array
 * @niov: its entries
 * @skip: first byte to be written
 * @src: source
 * @len: bytes
 */
void iov_scatter(const struct iovec *iov, unsigned int niov, size_t skip, const void *src,
		 size_t len);

/**
 * iov_gather() - copy out of the described memory
 * @iov: array
 * @niov: its entries
 * @skip: first byte to be read
 * @dst: destination
 * @len: bytes
 */
void iov_gather(const struct iovec *iov, unsigned int niov, size_t skip, void *dst, size_t len);

/**
 * iov_zero() - clear a part of the described memory
 * @iov: array
 * @niov: its entries
 * @skip: first byte to be cleared
 * @len: bytes
 */
void iov_zero(const struct iovec *iov, unsigned int niov, size_t skip, size_t len);

/**
 * iov_touch() - access each page of the described memory
 * @iov: array
 * @niov: its entries
 * @write: as a write would; the content stays
 *
 * For memory that a kernel call could not access: where a fault of this thread
 * would be mended by a signal handler, that of a kernel call is not.
 */
void iov_touch(const struct iovec *iov, unsigned int niov, bool write);

/**
 * iov_slice() - describe a part of the described memory
 * @iov: array
 * @niov: its entries
 * @skip: first byte
 * @len: bytes wanted
 * @out: receives at most @max entries
 * @max: entries of @out
 * @ret_len: bytes that @out describes; less than @len if @max was too small
 *
 * Return: entries of @out that were written.
 */
unsigned int iov_slice(const struct iovec *iov, unsigned int niov, size_t skip, size_t len,
		       struct iovec *out, unsigned int max, size_t *ret_len);

#endif
