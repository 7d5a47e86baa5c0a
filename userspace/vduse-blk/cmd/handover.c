// SPDX-License-Identifier: MIT
/*
 * Messages between a daemon and its successor.
 *
 * An offer is a bit mask that says which descriptors came along, in the order of
 * enum handover_fd, and a JSON document. All others are structs of fixed size.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "cmd/handover.h"
#include "cmd/json_text.h"

_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "messages are little-endian");
_Static_assert(sizeof(struct handover_header) == 12, "no padding in messages");
_Static_assert(sizeof(struct handover_ready) == 40, "no padding in messages");
_Static_assert(sizeof(struct handover_refused) == 516, "no padding in messages");
_Static_assert(sizeof(struct handover_done) == 520, "no padding in messages");

#define BODY_MAX	(HANDOVER_BYTES_MAX - sizeof(struct handover_header))
#define OPTIONAL_FDS	(1u << HANDOVER_FD_STORAGE)

static const char *const names[_HANDOVER_TYPE_MAX] = {
	[HANDOVER_OFFER] = "OFFER",
	[HANDOVER_READY] = "READY",
	[HANDOVER_REFUSED] = "REFUSED",
	[HANDOVER_GO] = "GO",
	[HANDOVER_DONE] = "DONE",
};

static const size_t body_sizes[_HANDOVER_TYPE_MAX] = {
	[HANDOVER_READY] = sizeof(struct handover_ready),
	[HANDOVER_REFUSED] = sizeof(struct handover_refused),
	[HANDOVER_GO] = 0,
	[HANDOVER_DONE] = sizeof(struct handover_done),
};

const char *handover_name(enum handover_type type)
{
	return type && type < _HANDOVER_TYPE_MAX ? names[type] : "a message of unknown type";
}

/* Offers */

static int take_text(const json_t *document, const char *key, char *to, size_t size,
		     struct error *e)
{
	const char *text = json_string_value(json_object_get(document, key));

	if (!text || strlen(text) >= size)
		return err_set(e, EBADMSG, "OFFER: \"%s\" is missing, no text or too long", key);
	memcpy(to, text, strlen(text) + 1);
	return 0;
}

static int take_number(const json_t *document, const char *key, json_int_t lowest,
		       json_int_t *ret_number, struct error *e)
{
	const json_t *value = json_object_get(document, key);

	if (!json_is_integer(value) || json_integer_value(value) < lowest ||
	    json_integer_value(value) > INT32_MAX)
		return err_set(e, EBADMSG, "OFFER: \"%s\" is missing or no number in range", key);
	*ret_number = json_integer_value(value);
	return 0;
}

static int take_options(json_t *document, struct handover_offer *offer, struct error *e)
{
	json_t *options = json_object_get(document, "options"), *value;
	const char *key;

	if (!json_is_object(options))
		return err_set(e, EBADMSG, "OFFER: \"options\" is no object");
	json_object_foreach(options, key, value) {
		if (!json_is_string(value))
			return err_set(e, EBADMSG, "OFFER: option \"%s\" is no text", key);
	}
	offer->options = json_incref(options);
	return 0;
}

static int parse_document(json_t *document, struct handover_offer *offer, struct error *e)
{
	json_int_t pid = 0, upgrades = 0;
	int err;

	if (!json_is_object(document))
		return err_set(e, EBADMSG, "OFFER: not a JSON object");
	err = take_text(document, "name", offer->name, sizeof(offer->name), e);
	if (!err)
		err = take_text(document, "path", offer->path, sizeof(offer->path), e);
	if (!err)
		err = take_text(document, "version", offer->version, sizeof(offer->version), e);
	if (!err)
		err = take_number(document, "pid", 1, &pid, e);
	if (!err)
		err = take_number(document, "upgrades", 0, &upgrades, e);
	if (!err && !json_is_boolean(json_object_get(document, "recover")))
		err = err_set(e, EBADMSG, "OFFER: \"recover\" is neither true nor false");
	if (!err)
		err = take_options(document, offer, e);
	offer->pid = (pid_t)pid;
	offer->upgrades = (unsigned int)upgrades;
	offer->recover = json_is_true(json_object_get(document, "recover"));
	return err;
}

/* Which are there was said by the mask; that they came, by the kernel. */
static int place_fds(uint32_t mask, const int *fds, unsigned int nfds,
		     struct handover_offer *offer, struct error *e)
{
	const uint32_t all = (1u << _HANDOVER_FD_MAX) - 1;
	unsigned int i, next = 0;

	if (mask & ~all || (mask | OPTIONAL_FDS) != all ||
	    (unsigned int)__builtin_popcount(mask) != nfds)
		return err_set(e, EBADMSG, "OFFER: %u descriptors for %#x", nfds, mask);
	for (i = 0; i < _HANDOVER_FD_MAX; i++)
		offer->fds[i] = mask & 1u << i ? fds[next++] : -1;
	return 0;
}

static int parse_offer(const char *body, size_t size, const int *fds, unsigned int nfds,
		       struct handover_offer *ret_offer, struct error *e)
{
	struct handover_offer offer = { .options = NULL };
	json_t *document;
	uint32_t mask;
	int err;

	if (size < sizeof(mask))
		return err_set(e, EBADMSG, "OFFER: only %zu bytes", size);
	memcpy(&mask, body, sizeof(mask));
	err = place_fds(mask, fds, nfds, &offer, e);
	if (err)
		return err;
	document = json_loadb(body + sizeof(mask), size - sizeof(mask), JSON_REJECT_DUPLICATES,
			      NULL);
	err = parse_document(document, &offer, e);
	json_decref(document);
	if (!err)
		*ret_offer = offer;
	return err;
}

static json_t *describe_offer(const struct handover_offer *offer)
{
	return json_pack("{s:s, s:o, s:s, s:i, s:i, s:b, s:O}",
			 "name", offer->name,
			 "path", json_text(offer->path),
			 "version", offer->version,
			 "pid", (int)offer->pid,
			 "upgrades", (int)offer->upgrades,
			 "recover", (int)offer->recover,
			 "options", offer->options);
}

/* All messages */

static int parse_body(const char *body, const struct handover_header *h, const int *fds,
		      unsigned int nfds, struct handover_message *m, struct error *e)
{
	if (h->type == HANDOVER_OFFER)
		return parse_offer(body, h->length, fds, nfds, &m->offer, e);
	if (h->length != body_sizes[h->type] || nfds)
		return err_set(e, EBADMSG, "%s: %u bytes and %u descriptors",
			       handover_name(m->type), h->length, nfds);
	memcpy(&m->ready, body, h->length);
	switch (m->type) {
	case HANDOVER_READY:
		if (!memchr(m->ready.version, '\0', sizeof(m->ready.version)))
			return err_set(e, EBADMSG, "READY: the version has no end");
		break;
	case HANDOVER_REFUSED:
		if (!m->refused.errnum || m->refused.errnum > 4095 ||
		    !memchr(m->refused.text, '\0', sizeof(m->refused.text)))
			return err_set(e, EBADMSG, "REFUSED: error %u", m->refused.errnum);
		break;
	case HANDOVER_DONE:
		if (!m->done.queues || m->done.queues > OPTION_QUEUES_MAX)
			return err_set(e, EBADMSG, "DONE: %u queues", m->done.queues);
		break;
	default:
		break;
	}
	return 0;
}

int handover_parse(const void *bytes, size_t size, const int *fds, unsigned int nfds,
		   struct handover_message *ret_message, struct error *e)
{
	struct handover_message m = { 0 };
	struct handover_header h;
	int err;

	if (size < sizeof(h))
		return err_set(e, EBADMSG, "a message of %zu bytes", size);
	memcpy(&h, bytes, sizeof(h));
	if (h.magic != HANDOVER_MAGIC)
		return err_set(e, EBADMSG, "a message with magic %#x", h.magic);
	if (h.version != HANDOVER_VERSION)
		return err_set(e, EPROTO, "the other vduse-blk hands over by version %u, this one by %u",
			       h.version, HANDOVER_VERSION);
	if (!h.type || h.type >= _HANDOVER_TYPE_MAX)
		return err_set(e, EBADMSG, "a message of unknown type %u", h.type);
	if (h.length != size - sizeof(h))
		return err_set(e, EBADMSG, "%s: %zu bytes that should be %u", names[h.type],
			       size - sizeof(h), h.length);
	m.type = (enum handover_type)h.type;
	err = parse_body((const char *)bytes + sizeof(h), &h, fds, nfds, &m, e);
	if (!err)
		*ret_message = m;
	return err;
}

/* The socket */

/* The kernel fills what alignment leaves, too: it may hold no more than there is room for. */
static_assert(CMSG_SPACE(_HANDOVER_FD_MAX * sizeof(int)) ==
	      CMSG_LEN(_HANDOVER_FD_MAX * sizeof(int)), "an even number of descriptors");

static unsigned int take_fds(struct msghdr *msg, int fds[_HANDOVER_FD_MAX])
{
	struct cmsghdr *c;
	unsigned int n = 0;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
	}
	return n;
}

int handover_receive(int fd, struct handover_message *ret_message, struct error *e)
{
	auto_free char *bytes = malloc(HANDOVER_BYTES_MAX);
	char control[CMSG_SPACE(_HANDOVER_FD_MAX * sizeof(int))]
		__attribute__((aligned(__alignof__(struct cmsghdr))));
	struct iovec iov = { .iov_base = bytes, .iov_len = HANDOVER_BYTES_MAX };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	int fds[_HANDOVER_FD_MAX], err;
	unsigned int nfds;
	ssize_t n;

	if (!bytes)
		return err_set(e, ENOMEM, "out of memory");
	do {
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set_errno(e, errno, "read what the other vduse-blk says");
	nfds = take_fds(&msg, fds);
	if (!n && !nfds)
		return err_set(e, ECONNRESET, "the other vduse-blk has closed the connection");
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		err = err_set(e, EBADMSG, "a message that is too long");
	else
		err = handover_parse(bytes, (size_t)n, fds, nfds, ret_message, e);
	while (err && nfds)
		close(fds[--nfds]);
	return err;
}

static int send_bytes(int fd, enum handover_type type, const struct iovec body[2],
		      const int *fds, unsigned int nfds, struct error *e)
{
	struct handover_header h = {
		.magic = HANDOVER_MAGIC,
		.version = HANDOVER_VERSION,
		.type = (uint16_t)type,
		.length = (uint32_t)(body[0].iov_len + body[1].iov_len),
	};
	struct iovec iov[3] = { { &h, sizeof(h) }, body[0], body[1] };
	char control[CMSG_SPACE(_HANDOVER_FD_MAX * sizeof(int))]
		__attribute__((aligned(__alignof__(struct cmsghdr)))) = { 0 };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };
	struct cmsghdr *c;
	ssize_t n;

	if (nfds) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	do {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set_errno(e, errno, "send %s to the other vduse-blk",
				     handover_name(type));
	return 0;
}

static int send_offer(int fd, const struct handover_offer *offer, struct error *e)
{
	json_t *document = describe_offer(offer);
	auto_free char *text = document ? json_dumps(document, JSON_COMPACT) : NULL;
	int fds[_HANDOVER_FD_MAX];
	unsigned int i, n = 0;
	struct iovec body[2];
	uint32_t mask = 0;

	json_decref(document);
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	for (i = 0; i < _HANDOVER_FD_MAX; i++) {
		if (offer->fds[i] < 0)
			continue;
		mask |= 1u << i;
		fds[n++] = offer->fds[i];
	}
	body[0] = (struct iovec) { &mask, sizeof(mask) };
	body[1] = (struct iovec) { text, strlen(text) };
	if (body[1].iov_len > BODY_MAX - sizeof(mask))
		return err_set(e, EMSGSIZE, "the options are too long to be handed over");
	return send_bytes(fd, HANDOVER_OFFER, body, fds, n, e);
}

int handover_send(int fd, const struct handover_message *m, struct error *e)
{
	struct iovec body[2] = { { (void *)(uintptr_t)&m->ready, body_sizes[m->type] } };

	if (m->type == HANDOVER_OFFER)
		return send_offer(fd, &m->offer, e);
	return send_bytes(fd, m->type, body, NULL, 0, e);
}

void handover_release(struct handover_message *m)
{
	unsigned int i;

	if (m->type != HANDOVER_OFFER)
		return;
	for (i = 0; i < _HANDOVER_FD_MAX; i++)
		cleanup_close(&m->offer.fds[i]);
	json_decref(m->offer.options);
}
