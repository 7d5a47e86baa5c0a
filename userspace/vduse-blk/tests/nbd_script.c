// SPDX-License-Identifier: MIT
/*
 * The scripted NBD server: an interpreter on a thread of its own with blocking
 * socket calls. It is not meant to be fast, or correct: correctness is what
 * the script is about.
 */
#include "nbd_script.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/parse.h"

#define MAX_WORD     2048
#define MAX_ARGS     6
#define IO_TIMEOUT_S 30

struct run {
	struct nbd_script *s;
	int fd;
	uint8_t *out;
	size_t out_len, out_room;
	uint32_t option; /* the last one that came */
	uint64_t cookie_delta;
	bool structured;
	char word[MAX_WORD];
	char *args[MAX_ARGS];
	unsigned int nargs;
	bool over;
};

static void problem(struct run *r, const char *fmt, ...) PRINTF_FORMAT(2, 3);

static void problem(struct run *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!r->s->problem[0])
		vsnprintf(r->s->problem, sizeof(r->s->problem), fmt, ap);
	va_end(ap);
	r->over = true;
}

static uint64_t number(struct run *r, unsigned int i)
{
	char *end;
	uint64_t v;

	if (i >= r->nargs) {
		problem(r, "'%s' wants more arguments", r->word);
		return 0;
	}
	v = strtoull(r->args[i], &end, 0);
	if (*end)
		problem(r, "'%s': '%s' is not a number", r->word, r->args[i]);
	return v;
}

static bool last_arg_is(const struct run *r, const char *text)
{
	return r->nargs && !strcmp(r->args[r->nargs - 1], text);
}

/* --- bytes --- */

static void flush_out(struct run *r)
{
	for (size_t done = 0; done < r->out_len;) {
		ssize_t n = send(r->fd, r->out + done, r->out_len - done, MSG_NOSIGNAL);

		/* A client that has seen enough may be gone already. */
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	r->out_len = 0;
}

static void put(struct run *r, const void *p, size_t n)
{
	if (r->out_len + n > r->out_room) {
		r->out_room = 2 * (r->out_len + n);
		r->out = realloc(r->out, r->out_room);
		if (!r->out)
			abort();
	}
	if (p)
		memcpy(r->out + r->out_len, p, n);
	else
		memset(r->out + r->out_len, 0, n);
	r->out_len += n;
}

static void put16(struct run *r, uint16_t v)
{
	v = htobe16(v);
	put(r, &v, sizeof(v));
}

static void put32(struct run *r, uint32_t v)
{
	v = htobe32(v);
	put(r, &v, sizeof(v));
}

static void put64(struct run *r, uint64_t v)
{
	v = htobe64(v);
	put(r, &v, sizeof(v));
}

static bool get(struct run *r, void *p, size_t n)
{
	flush_out(r);
	for (size_t done = 0; done < n;) {
		ssize_t got = recv(r->fd, (char *)p + done, n - done, 0);

		if (got <= 0) {
			problem(r, "client hung up at '%s'", r->word);
			return false;
		}
		done += (size_t)got;
	}
	return true;
}

static void get_and_drop(struct run *r, size_t n)
{
	uint8_t buf[4096];

	while (n && !r->over) {
		size_t piece = min(n, sizeof(buf));

		if (!get(r, buf, piece))
			return;
		n -= piece;
	}
}

/* --- handshake --- */

static void do_greet(struct run *r)
{
	put64(r, 0x4e42444d41474943ull);
	put64(r, 0x49484156454f5054ull);
	put16(r, r->nargs ? (uint16_t)number(r, 0) : 3);
}

static void do_flags(struct run *r)
{
	get_and_drop(r, 4);
}

static void do_opt(struct run *r)
{
	struct {
		uint64_t magic;
		uint32_t option;
		uint32_t length;
	} __attribute__((packed)) h;

	if (!get(r, &h, sizeof(h)))
		return;
	r->option = be32toh(h.option);
	if (be64toh(h.magic) != 0x49484156454f5054ull || r->option != number(r, 0))
		problem(r, "option %u came at '%s'", r->option, r->word);
	else
		get_and_drop(r, be32toh(h.length));
}

static void put_reply(struct run *r, uint32_t type, uint32_t length)
{
	put64(r, 0x3e889045565a9ull);
	put32(r, r->option);
	put32(r, type);
	put32(r, length);
}

static void do_ack(struct run *r)
{
	if (r->option == 8)
		r->structured = true;
	put_reply(r, 1, 0);
}

static void do_err(struct run *r)
{
	const char *text = r->nargs > 1 ? r->args[1] : "";

	put_reply(r, 0x80000000u | (uint32_t)number(r, 0), (uint32_t)strlen(text));
	put(r, text, strlen(text));
}

static void do_rep(struct run *r)
{
	put_reply(r, (uint32_t)number(r, 0), (uint32_t)number(r, 1));
}

static void do_info(struct run *r)
{
	put_reply(r, 3, 12);
	put16(r, 0);
	put64(r, number(r, 0));
	put16(r, (uint16_t)number(r, 1));
}

static void do_block(struct run *r)
{
	put_reply(r, 3, 14);
	put16(r, 3);
	for (unsigned int i = 0; i < 3; i++)
		put32(r, (uint32_t)number(r, i));
}

/* --- transmission --- */

static void do_head(struct run *r)
{
	struct {
		uint32_t magic;
		uint16_t flags, type;
		uint64_t cookie, offset;
		uint32_t length;
	} __attribute__((packed)) h;
	struct nbd_script_request *q = &r->s->requests[r->s->nrequests];

	if (r->s->nrequests == NBD_SCRIPT_MAX_REQUESTS) {
		problem(r, "too many requests");
		return;
	}
	if (!get(r, &h, sizeof(h)))
		return;
	if (be32toh(h.magic) != 0x25609513)
		problem(r, "wrong request magic");
	*q = (struct nbd_script_request){ be16toh(h.flags), be16toh(h.type), be64toh(h.cookie),
					  be64toh(h.offset), be32toh(h.length), NULL };
	r->s->nrequests++;
}

static void do_rest(struct run *r)
{
	struct nbd_script_request *q = &r->s->requests[r->s->nrequests - 1];

	q->data = malloc(q->length + 1);
	if (!q->data)
		abort();
	get(r, q->data, q->length);
}

static void do_req(struct run *r)
{
	do_head(r);
	if (!r->over && r->s->requests[r->s->nrequests - 1].type == 1)
		do_rest(r);
}

static const struct nbd_script_request *request(struct run *r)
{
	static const struct nbd_script_request none;
	uint64_t i = number(r, 0);

	if (i >= r->s->nrequests) {
		problem(r, "'%s': there was no such request", r->word);
		return &none;
	}
	return &r->s->requests[i];
}

static void put_simple(struct run *r, uint32_t error)
{
	put32(r, 0x67446698);
	put32(r, error);
	put64(r, request(r)->cookie + r->cookie_delta);
}

static void do_ok(struct run *r)
{
	put_simple(r, 0);
}

static void do_fail(struct run *r)
{
	put_simple(r, (uint32_t)number(r, 1));
}

static void put_pattern(struct run *r, uint64_t offset, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint8_t byte = nbd_script_byte(offset + i);

		put(r, &byte, 1);
	}
}

static void do_payload(struct run *r)
{
	put_pattern(r, request(r)->offset, number(r, 1));
}

static void put_chunk(struct run *r, uint16_t flags, uint16_t type, uint32_t length)
{
	put32(r, 0x668e33ef);
	put16(r, flags);
	put16(r, type);
	put64(r, request(r)->cookie + r->cookie_delta);
	put32(r, length);
}

static void do_data(struct run *r)
{
	uint64_t offset = request(r)->offset + number(r, 1);
	uint32_t length = (uint32_t)number(r, 2);

	put_chunk(r, last_arg_is(r, "done"), 1, length + 8);
	put64(r, offset);
	put_pattern(r, offset, length);
}

static void do_hole(struct run *r)
{
	put_chunk(r, last_arg_is(r, "done"), 2, 12);
	put64(r, request(r)->offset + number(r, 1));
	put32(r, (uint32_t)number(r, 2));
}

static void do_none(struct run *r)
{
	put_chunk(r, last_arg_is(r, "done"), 0, 0);
}

static void do_error(struct run *r)
{
	put_chunk(r, last_arg_is(r, "done"), 0x8001, 6 + 8);
	put32(r, (uint32_t)number(r, 1));
	put16(r, 8);
	put(r, "scripted", 8);
}

static void do_erroff(struct run *r)
{
	put_chunk(r, last_arg_is(r, "done"), 0x8002, 6 + 8 + 8);
	put32(r, (uint32_t)number(r, 1));
	put16(r, 8);
	put(r, "scripted", 8);
	put64(r, request(r)->offset + number(r, 2));
}

static void do_chunk(struct run *r)
{
	uint32_t length = (uint32_t)number(r, 3);

	put_chunk(r, (uint16_t)number(r, 2), (uint16_t)number(r, 1), length);
	put(r, NULL, min(length, 1u << 16));
}

static void do_echunk(struct run *r)
{
	uint32_t length = (uint32_t)number(r, 3);

	put_chunk(r, 1, (uint16_t)number(r, 1), length);
	put32(r, (uint32_t)number(r, 2));
	put(r, NULL, length - 4);
}

static void do_cookie(struct run *r)
{
	r->cookie_delta = number(r, 0);
}

static bool inside(const struct nbd_script_request *q)
{
	return q->length <= NBD_SCRIPT_SIZE && q->offset <= NBD_SCRIPT_SIZE - q->length;
}

static void apply(struct run *r, const struct nbd_script_request *q)
{
	if (!inside(q))
		problem(r, "'%s': request outside the disk", r->word);
	else if (q->type == 1)
		memcpy(r->s->disk + q->offset, q->data, q->length);
	else if (q->type == 6)
		memset(r->s->disk + q->offset, 0, q->length);
}

static void do_apply(struct run *r)
{
	apply(r, request(r));
}

static void answer(struct run *r, const struct nbd_script_request *q)
{
	bool content = q->type == 0;

	if (content && !inside(q)) {
		problem(r, "'%s': request outside the disk", r->word);
		return;
	}
	if (content && r->structured) {
		put32(r, 0x668e33ef);
		put16(r, 1);
		put16(r, 1);
		put64(r, q->cookie);
		put32(r, q->length + 8);
		put64(r, q->offset);
	} else {
		put32(r, 0x67446698);
		put32(r, 0);
		put64(r, q->cookie);
	}
	if (content)
		put(r, r->s->disk + q->offset, q->length);
	else
		apply(r, q);
}

/* Has the client left, instead of asking for something? */
static bool client_left(struct run *r)
{
	uint8_t header[28];
	ssize_t n;

	flush_out(r);
	n = recv(r->fd, header, sizeof(header), MSG_PEEK | MSG_WAITALL);
	return n < (ssize_t)sizeof(header) || (!header[6] && header[7] == 2);
}

static void do_serve(struct run *r)
{
	uint64_t n = r->nargs ? number(r, 0) : UINT64_MAX;

	while (n-- && !r->over) {
		if (client_left(r))
			return;
		do_req(r);
		if (!r->over)
			answer(r, &r->s->requests[r->s->nrequests - 1]);
	}
	flush_out(r);
}

static void do_quiet(struct run *r)
{
	struct timeval limit = { .tv_sec = (time_t)number(r, 0) / 1000,
				 .tv_usec = (suseconds_t)(number(r, 0) % 1000) * 1000 };
	struct timeval usual = { .tv_sec = IO_TIMEOUT_S };
	uint8_t byte;

	flush_out(r);
	setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (recv(r->fd, &byte, 1, MSG_PEEK) >= 0)
		problem(r, "something came at '%s'", r->word);
	setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &usual, sizeof(usual));
}

static void do_dead(struct run *r)
{
	flush_out(r);
	if (send(r->fd, "", 1, MSG_NOSIGNAL) >= 0)
		problem(r, "the client still listens at '%s'", r->word);
}

/* --- several connections --- */

static void do_leave(struct run *r)
{
	flush_out(r);
	if (r->s->nleft == NBD_SCRIPT_MAX_LEFT)
		problem(r, "too many connections are left");
	else
		r->s->left[r->s->nleft++] = r->fd;
	r->fd = -1;
}

static void do_back(struct run *r)
{
	uint64_t n = number(r, 0);
	int fd = r->fd;

	flush_out(r);
	if (n >= r->s->nleft) {
		problem(r, "'%s': there is no such connection", r->word);
		return;
	}
	r->fd = r->s->left[n];
	r->s->left[n] = fd;
}

static void do_hangup(struct run *r)
{
	flush_out(r);
	while (r->s->nleft)
		close(r->s->left[--r->s->nleft]);
}

static bool next_connection(struct run *r)
{
	struct timeval limit = { .tv_sec = IO_TIMEOUT_S };

	r->fd = accept(r->s->listener, NULL, NULL);
	if (r->fd < 0) {
		r->over = true;
		return false;
	}
	r->s->connections++;
	r->structured = false;
	r->cookie_delta = 0;
	setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return true;
}

static void end_connection(struct run *r)
{
	flush_out(r);
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
}

static void do_refuse(struct run *r)
{
	for (uint64_t n = number(r, 0); n && !r->over; n--) {
		end_connection(r);
		next_connection(r);
	}
}

static void do_disc(struct run *r)
{
	uint8_t h[28];

	if (get(r, h, sizeof(h)) && (h[6] || h[7] != 2))
		problem(r, "request of type %u at 'disc'", h[7]);
}

/* --- anywhere --- */

static void do_hex(struct run *r)
{
	const char *p = r->nargs ? r->args[0] : "";
	unsigned int byte;

	for (; sscanf(p, "%2x", &byte) == 1; p += 2) {
		uint8_t b = (uint8_t)byte;

		put(r, &b, 1);
		if (!p[1])
			break;
	}
}

static void do_zero(struct run *r)
{
	put(r, NULL, number(r, 0));
}

static void do_sleep(struct run *r)
{
	flush_out(r);
	usleep((useconds_t)number(r, 0) * 1000);
}

static void do_close(struct run *r)
{
	flush_out(r);
	r->over = true;
}

static void do_wait(struct run *r)
{
	uint8_t buf[4096];

	flush_out(r);
	while (recv(r->fd, buf, sizeof(buf), 0) > 0)
		;
	r->over = true;
}

static const struct {
	const char *name;
	void (*run)(struct run *r);
} words[] = {
	{ "greet", do_greet },	 { "flags", do_flags },	  { "opt", do_opt },
	{ "ack", do_ack },	 { "err", do_err },	  { "rep", do_rep },
	{ "info", do_info },	 { "block", do_block },	  { "req", do_req },
	{ "head", do_head },	 { "rest", do_rest },	  { "flush", flush_out },
	{ "ok", do_ok },	 { "fail", do_fail },	  { "payload", do_payload },
	{ "data", do_data },	 { "hole", do_hole },	  { "none", do_none },
	{ "error", do_error },	 { "erroff", do_erroff }, { "chunk", do_chunk },
	{ "cookie", do_cookie }, { "echunk", do_echunk }, { "disc", do_disc },
	{ "x", do_hex },	 { "zero", do_zero },	  { "sleep", do_sleep },
	{ "close", do_close },	 { "wait", do_wait },	  { "serve", do_serve },
	{ "apply", do_apply },	 { "quiet", do_quiet },	  { "leave", do_leave },
	{ "hangup", do_hangup }, { "refuse", do_refuse }, { "back", do_back },
	{ "dead", do_dead },
};

/* 0x16d: flags, flush, FUA, trim, write-zeroes, multi-conn */
#define HANDSHAKE(answer) \
	"greet flags opt:8 " answer " opt:7 info:1048576:0x16d block:1:4096:33554432 ack"

static void run_script(struct run *r, const char *text);

static void run_word(struct run *r, const char *word, size_t n)
{
	char *save = NULL;

	if (n == 2 && !strncmp(word, "hs", n)) {
		run_script(r, HANDSHAKE("ack"));
		return;
	}
	if (n == 9 && !strncmp(word, "hs-simple", n)) {
		run_script(r, HANDSHAKE("err:1"));
		return;
	}
	snprintf(r->word, sizeof(r->word), "%.*s", (int)n, word);
	strtok_r(r->word, ":", &save);
	for (r->nargs = 0; r->nargs < MAX_ARGS; r->nargs++) {
		r->args[r->nargs] = strtok_r(NULL, ":", &save);
		if (!r->args[r->nargs])
			break;
	}
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (!strcmp(words[i].name, r->word)) {
			words[i].run(r);
			return;
		}
	}
	problem(r, "unknown word '%s'", r->word);
}

static void run_script(struct run *r, const char *text)
{
	while (*text && !r->over) {
		size_t n = strcspn(text, " ");

		if (n)
			run_word(r, text, n);
		text += n + (text[n] == ' ');
	}
}

static void *serve(void *arg)
{
	struct nbd_script *s = arg;
	struct run r = { .s = s, .fd = -1 };
	const char *text = s->text;

	while (*text && !s->problem[0] && next_connection(&r)) {
		size_t n = strcspn(text, "|");
		char *part = strndup(text, n);

		r.over = false;
		run_script(&r, part);
		end_connection(&r);
		free(part);
		text += n + (text[n] == '|');
	}
	while (s->nleft)
		close(s->left[--s->nleft]);
	free(r.out);
	return NULL;
}

int nbd_script_start(struct nbd_script *s, const char *text)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int err;

	*s = (struct nbd_script){ .folder = "/tmp/test-script-XXXXXX", .text = text };
	if (!mkdtemp(s->folder))
		return -errno;
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/socket", s->folder);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///disk?socket=%s", un.sun_path);
	s->disk = malloc(NBD_SCRIPT_SIZE);
	if (!s->disk)
		return -ENOMEM;
	for (size_t i = 0; i < NBD_SCRIPT_SIZE; i++)
		s->disk[i] = nbd_script_byte(i);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->listener < 0 || bind(s->listener, (void *)&un, sizeof(un)) || listen(s->listener, 4))
		return -errno;
	err = pthread_create(&s->thread, NULL, serve, s);
	return -err;
}

void nbd_script_stop(struct nbd_script *s)
{
	char name[96];

	/* If nobody has connected, accept() must not wait for ever. */
	shutdown(s->listener, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->listener);
	snprintf(name, sizeof(name), "%s/socket", s->folder);
	unlink(name);
	rmdir(s->folder);
}

void nbd_script_free(struct nbd_script *s)
{
	for (unsigned int i = 0; i < s->nrequests; i++)
		free(s->requests[i].data);
	free(s->disk);
	s->disk = NULL;
	s->nrequests = 0;
}
