// SPDX-License-Identifier: MIT
/*
 * Error text: formatted in place into the caller's struct, so a failure path
 * needs no memory and cannot fail itself. Parts of the text come from servers,
 * URIs and files; control characters are replaced, so that a remote string
 * can neither forge a log line nor drive a terminal.
 */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void make_printable(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
}

static void set_text(struct error *e, int errnum, const char *fmt, va_list ap)
{
	char text[ERROR_TEXT_SIZE];

	/* Arguments may point into e->text, so it is not formatted in place. */
	vsnprintf(text, sizeof(text), fmt, ap);
	make_printable(text);
	memcpy(e->text, text, sizeof(text));
	e->errnum = errnum;
}

int err_set(struct error *e, int errnum, const char *fmt, ...)
{
	va_list ap;

	if (e) {
		va_start(ap, fmt);
		set_text(e, errnum, fmt, ap);
		va_end(ap);
	}
	return -errnum;
}

int err_set_errno(struct error *e, int errnum, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	if (e) {
		va_start(ap, fmt);
		set_text(e, errnum, fmt, ap);
		va_end(ap);
		used = strlen(e->text);
		snprintf(e->text + used, sizeof(e->text) - used, ": %s", strerror(errnum));
	}
	return -errnum;
}

int err_prefix(struct error *e, const char *fmt, ...)
{
	char old[ERROR_TEXT_SIZE];
	va_list ap;
	size_t used;

	if (!e || !e->errnum)
		return -EINVAL;

	memcpy(old, e->text, sizeof(old));
	va_start(ap, fmt);
	set_text(e, e->errnum, fmt, ap);
	va_end(ap);
	used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s", old);
	return -e->errnum;
}
