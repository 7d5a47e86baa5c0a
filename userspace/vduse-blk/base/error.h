/* SPDX-License-Identifier: MIT */
/*
 * Error text on its way up.
 *
 * The function that detects a failure knows why, the top level knows where to
 * print it. In between travels a struct error: one line of text and an errno.
 * Nobody prints an error twice, nobody logs and returns it.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "base/util.h"

#define ERROR_TEXT_SIZE 512

struct error {
	int errnum; /* positive errno, 0 when nothing was set */
	char text[ERROR_TEXT_SIZE];
};

#define ERROR_INIT ((struct error){ 0 })

/**
 * err_set() - describe a failure
 * @e: where to, or NULL when the caller wants no text
 * @errnum: positive errno of the failure
 * @fmt: printf format; no newline; control characters that come out of it are
 *	 replaced, because servers and users supply parts of the text
 *
 * A text that is too long is cut. Any thread, never allocates or sleeps.
 *
 * Return: -@errnum, so that "return err_set(...)" is the whole error path.
 */
int err_set(struct error *e, int errnum, const char *fmt, ...) PRINTF_FORMAT(3, 4);

/**
 * err_set_errno() - like err_set(), followed by ": " and the errno's own text
 * @e: where to, or NULL
 * @errnum: positive errno of the failure
 * @fmt: printf format
 *
 * Return: -@errnum.
 */
int err_set_errno(struct error *e, int errnum, const char *fmt, ...) PRINTF_FORMAT(3, 4);

/**
 * err_prefix() - say in what context the failure that is already in @e happened
 * @e: set by err_set(), or NULL
 * @fmt: printf format; ": " is put between it and the old text
 *
 * Return: -errno that @e holds (-EINVAL when @e is NULL or was never set).
 */
int err_prefix(struct error *e, const char *fmt, ...) PRINTF_FORMAT(2, 3);

#endif
