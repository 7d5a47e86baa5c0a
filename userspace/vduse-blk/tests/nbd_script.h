/* SPDX-License-Identifier: MIT */
/*
 * An NBD server that does exactly what a script says, right or wrong.
 *
 * A script is a line of words; a word may have numbers behind colons.
 *
 * Handshake
 *	greet[:FLAGS]		both magics and the handshake flags (default 3)
 *	flags			wait for the client's flags
 *	opt:N			wait for option N
 *	ack  err:CODE[:TEXT]  rep:TYPE:LENGTH	reply to that option (CODE without bit 31)
 *	info:SIZE:FLAGS		export information
 *	block:MIN:PREF:MAX	block size information
 *	hs  hs-simple		the whole of it, for a 1 MiB export with everything,
 *				with structured replies or without
 * Transmission
 *	req			wait for a request; they are numbered from 0
 *	head  rest		the same in two steps: a write's header, its payload
 *	flush			send what was collected so far in one write
 *	ok:R  fail:R:ERROR	simple reply to request R
 *	payload:R:N		N bytes that follow a simple reply, of request R's pattern
 *	data:R:OFF:LEN[:done]	data chunk; OFF is relative to the request's
 *	hole:R:OFF:LEN[:done]
 *	none:R[:done]
 *	error:R:ERROR[:done]	error chunk with the text "scripted"
 *	erroff:R:ERROR:OFF[:done]
 *	chunk:R:TYPE:FLAGS:LENGTH	any chunk header; zeroes as payload
 *	echunk:R:TYPE:ERROR:LENGTH	the only chunk, an error of any type, no text
 *	cookie:X		X is added to the cookies of the replies that follow
 *	disc			wait for the disconnect request
 *	serve[:N]		answer N requests rightly (default: until the client leaves),
 *				reading from and writing to the disk, which begins as
 *				the pattern
 *	apply:R			write request R's data to the disk, without an answer
 *	quiet:MS		nothing may arrive for so long
 *	dead			the client must have closed its side, not only to us
 * Several connections
 *	|			the next connection; the script goes on when it comes.
 *				The old one is closed, unless it was left
 *	leave			keep this connection open, and deaf
 *	back:N			go on with the one that was left as the Nth (from 0); this
 *				one is left in its place
 *	hangup			close those that were left
 *	refuse:N		N connections are closed as soon as they come
 * Anywhere
 *	x:HEX			raw bytes
 *	zero:N			N zero bytes
 *	sleep:MS
 *	close			hang up
 *	wait			until the client hangs up
 *
 * What is sent is collected and leaves in one write before anything is waited
 * for. Byte number i of the export reads as nbd_script_byte(i).
 */
#ifndef TESTS_NBD_SCRIPT_H
#define TESTS_NBD_SCRIPT_H

#include <pthread.h>

#include "base/util.h"

#define NBD_SCRIPT_SIZE		(1024 * 1024)
#define NBD_SCRIPT_MAX_REQUESTS 256
#define NBD_SCRIPT_MAX_LEFT	8

struct nbd_script_request {
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint64_t offset;
	uint32_t length;
	uint8_t *data; /* of a write */
};

struct nbd_script {
	char folder[64];
	char uri[160];
	int listener;
	pthread_t thread;
	const char *text;
	int left[NBD_SCRIPT_MAX_LEFT];
	unsigned int nleft;
	unsigned int connections; /* that came */
	uint8_t *disk;
	unsigned int nrequests;
	struct nbd_script_request requests[NBD_SCRIPT_MAX_REQUESTS];
	/* Why the script could not be followed; empty: it was. Read after stop. */
	char problem[160];
};

/**
 * nbd_script_start() - listen, and follow @text
 * @s: to fill in
 * @text: kept, not copied
 *
 * Return: 0 or -errno.
 */
int nbd_script_start(struct nbd_script *s, const char *text);

/**
 * nbd_script_stop() - wait for the end of the script
 * @s: started. The client has hung up, or the script does.
 *
 * s->problem, s->connections, s->requests (without data) and s->disk are for
 * reading afterwards; nbd_script_free() frees them.
 */
void nbd_script_stop(struct nbd_script *s);

/**
 * nbd_script_free() - after nbd_script_stop()
 * @s: stopped
 */
void nbd_script_free(struct nbd_script *s);

static inline uint8_t nbd_script_byte(uint64_t offset)
{
	return (uint8_t)(offset * 7 + (offset >> 9) + 3);
}

#endif
