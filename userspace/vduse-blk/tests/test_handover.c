// SPDX-License-Identifier: MIT
/*
 * The messages of a hand-over: what is sent arrives, with its descriptors, and what
 * makes no sense is refused with a reason and leaves no descriptor open.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <dirent.h>

#include <cmocka.h>

#include "base/util.h"
#include "cmd/handover.h"

static int pair[2];

static unsigned int open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static int set_up(void **state)
{
	(void)state;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
}

static int tear_down(void **state)
{
	(void)state;
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static struct handover_message offer(void)
{
	struct handover_message m = {
		.type = HANDOVER_OFFER,
		.offer = {
			.name = "disk0", .path = "/dev/vda", .version = "1.2", .pid = 17,
			.upgrades = 3, .recover = true,
			.options = json_pack("{s:s}", "io-timeout", "5"),
		},
	};
	unsigned int i;

	for (i = 0; i < _HANDOVER_FD_MAX; i++)
		m.offer.fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return m;
}

static void pass(const struct handover_message *m, struct handover_message *ret)
{
	struct error e = ERROR_INIT;

	if (handover_send(pair[0], m, &e) || handover_receive(pair[1], ret, &e))
		fail_msg("%s", e.text);
	assert_int_equal(ret->type, m->type);
}

static void test_offer(void **state)
{
	struct handover_message m = offer(), got;
	unsigned int i, storage, files = open_files();

	(void)state;
	for (storage = 0; storage < 2; storage++) {
		if (!storage) {
			close(m.offer.fds[HANDOVER_FD_STORAGE]);
			m.offer.fds[HANDOVER_FD_STORAGE] = -1;
			files--;
		} else {
			m.offer.fds[HANDOVER_FD_STORAGE] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
			files++;
		}
		pass(&m, &got);
		assert_string_equal(got.offer.name, "disk0");
		assert_string_equal(got.offer.path, "/dev/vda");
		assert_string_equal(got.offer.version, "1.2");
		assert_int_equal(got.offer.pid, 17);
		assert_int_equal(got.offer.upgrades, 3);
		assert_true(got.offer.recover);
		assert_true(json_equal(got.offer.options, m.offer.options));
		for (i = 0; i < _HANDOVER_FD_MAX; i++) {
			struct stat st;

			if (i == HANDOVER_FD_STORAGE && !storage) {
				assert_int_equal(got.offer.fds[i], -1);
				continue;
			}
			/* /dev/null is 1:3, /dev/zero 1:5; and neither survives exec. */
			assert_int_equal(fstat(got.offer.fds[i], &st), 0);
			assert_int_equal(st.st_rdev & 0xff, i == HANDOVER_FD_STORAGE ? 5 : 3);
			assert_int_equal(fcntl(got.offer.fds[i], F_GETFD), FD_CLOEXEC);
		}
		handover_release(&got);
		assert_int_equal(open_files(), files);
	}
	handover_release(&m);
}

static void test_others(void **state)
{
	struct handover_message m, got;

	(void)state;
	m = (struct handover_message) { .type = HANDOVER_READY,
					.ready = { .capacity = 1ull << 40, .version = "2" } };
	pass(&m, &got);
	assert_memory_equal(&got.ready, &m.ready, sizeof(m.ready));
	m = (struct handover_message) { .type = HANDOVER_REFUSED,
					.refused = { .errnum = EINVAL, .text = "no" } };
	pass(&m, &got);
	assert_memory_equal(&got.refused, &m.refused, sizeof(m.refused));
	m = (struct handover_message) { .type = HANDOVER_GO };
	pass(&m, &got);
	m = (struct handover_message) { .type = HANDOVER_DONE,
					.done = { .queues = 2, .served_ns = { 5, 6 } } };
	pass(&m, &got);
	assert_memory_equal(&got.done, &m.done, sizeof(m.done));
	handover_release(&got);
}

static void test_socket(void **state)
{
	struct handover_message m = offer(), got;
	struct error e = ERROR_INIT;
	json_t *options = json_object();
	static char long_text[70000];

	(void)state;
	assert_int_equal(handover_receive(pair[1], &got, &e), -EAGAIN);

	memset(long_text, 'x', sizeof(long_text) - 1);
	json_object_set_new(options, "text", json_string(long_text));
	json_decref(m.offer.options);
	m.offer.options = options;
	assert_int_equal(handover_send(pair[0], &m, &e), -EMSGSIZE);
	handover_release(&m);

	/* Longer than any message may be. */
	assert_int_equal(send(pair[0], long_text, sizeof(long_text), 0), sizeof(long_text));
	assert_int_equal(handover_receive(pair[1], &got, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "too long"));

	close(pair[0]);
	assert_int_equal(handover_receive(pair[1], &got, &e), -ECONNRESET);
	m = (struct handover_message) { .type = HANDOVER_GO };
	assert_int_equal(handover_send(pair[1], &m, &e), -EPIPE);
	pair[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Bad messages. An offer's document is behind a mask of descriptors. */

#define DOCUMENT(name, rest) \
	"{\"name\": " name ", \"path\": \"\", \"version\": \"1\", " rest "}"
#define REST "\"pid\": 1, \"upgrades\": 0, \"recover\": false, \"options\": {}"

static const struct bad_offer {
	uint32_t mask;
	unsigned int nfds;
	const char *document;
	const char *message; /* NULL: it is good */
} bad_offers[] = {
	{ 0x1f, 5, DOCUMENT("\"a\"", REST), NULL },
	{ 0x3f, 6, DOCUMENT("\"a\"", REST), NULL },
	{ 0x1f, 5, DOCUMENT("\"a\"", REST ", \"news\": [1]"), NULL },
	{ 0x1f, 4, DOCUMENT("\"a\"", REST), "4 descriptors for 0x1f" },
	{ 0x1f, 6, DOCUMENT("\"a\"", REST), "6 descriptors for 0x1f" },
	{ 0x0f, 4, DOCUMENT("\"a\"", REST), "4 descriptors for 0xf" },
	{ 0x5f, 6, DOCUMENT("\"a\"", REST), "6 descriptors for 0x5f" },
	{ 0x8000001f, 6, DOCUMENT("\"a\"", REST), "6 descriptors" },
	{ 0x1f, 5, "", "not a JSON object" },
	{ 0x1f, 5, "[]", "not a JSON object" },
	{ 0x1f, 5, "{\"name\": \"a\"", "not a JSON object" },
	{ 0x1f, 5, "{}", "\"name\" is missing" },
	{ 0x1f, 5, DOCUMENT("17", REST), "\"name\" is missing" },
	{ 0x1f, 5, DOCUMENT("\"a\"", REST ", \"pid\": 2"), "not a JSON object" }, /* twice */
	{ 0x1f, 5, DOCUMENT("\"01234567890123456789012345678901234567890123456789012345678901234\"",
			    REST), "\"name\" is missing, no text or too long" },
	{ 0x1f, 5, DOCUMENT("\"a\"", "\"pid\": 0"), "\"pid\" is missing or no number in range" },
	{ 0x1f, 5, DOCUMENT("\"a\"", "\"pid\": 99999999999"), "\"pid\" is missing" },
	{ 0x1f, 5, DOCUMENT("\"a\"", "\"pid\": 1"), "\"upgrades\" is missing" },
	{ 0x1f, 5, DOCUMENT("\"a\"", "\"pid\": 1, \"upgrades\": -1"), "\"upgrades\" is missing" },
	{ 0x1f, 5, DOCUMENT("\"a\"", "\"pid\": 1, \"upgrades\": 0"), "\"recover\"" },
	{ 0x1f, 5, DOCUMENT("\"a\"", "\"pid\": 1, \"upgrades\": 0, \"recover\": false"),
	  "\"options\" is no object" },
	{ 0x1f, 5, DOCUMENT("\"a\"",
			    "\"pid\": 1, \"upgrades\": 0, \"recover\": false, \"options\": {\"a\": 1}"),
	  "option \"a\" is no text" },
};

static size_t make(char *bytes, uint16_t type, const void *body, size_t length)
{
	const struct handover_header h = {
		.magic = HANDOVER_MAGIC, .version = HANDOVER_VERSION, .type = type,
		.length = (uint32_t)length,
	};

	memcpy(bytes, &h, sizeof(h));
	memcpy(bytes + sizeof(h), body, length);
	return sizeof(h) + length;
}

static void test_bad_offers(void **state)
{
	static const int fds[_HANDOVER_FD_MAX] = { 900, 901, 902, 903, 904, 905 };
	char body[4096], bytes[4096 + 12];
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bad_offers); i++) {
		const struct bad_offer *b = &bad_offers[i];
		struct handover_message m;
		struct error e = ERROR_INIT;
		size_t n;
		int err;

		memcpy(body, &b->mask, 4);
		memcpy(body + 4, b->document, strlen(b->document));
		n = make(bytes, HANDOVER_OFFER, body, 4 + strlen(b->document));
		err = handover_parse(bytes, n, fds, b->nfds, &m, &e);
		if (!b->message) {
			assert_int_equal(err, 0);
			assert_int_equal(m.offer.fds[0], 900);
			json_decref(m.offer.options);
			continue;
		}
		assert_int_equal(err, -EBADMSG);
		if (!strstr(e.text, b->message))
			fail_msg("offer %u: \"%s\", not \"%s\"", i, e.text, b->message);
	}
}

static const struct bad_message {
	uint32_t magic;
	uint16_t version, type;
	uint32_t length; /* said in the header */
	size_t size; /* of the body */
	unsigned int nfds;
	uint8_t fill;
	int err;
	const char *message;
} bad_messages[] = {
	{ HANDOVER_MAGIC, 1, HANDOVER_GO, 0, 0, 0, 0, 0, NULL },
	{ HANDOVER_MAGIC, 1, HANDOVER_READY, 40, 40, 0, 0, 0, NULL },
	{ HANDOVER_MAGIC + 1, 1, HANDOVER_GO, 0, 0, 0, 0, -EBADMSG, "with magic" },
	{ HANDOVER_MAGIC, 0, HANDOVER_GO, 0, 0, 0, 0, -EPROTO, "by version 0, this one by 1" },
	{ HANDOVER_MAGIC, 2, HANDOVER_GO, 0, 0, 0, 0, -EPROTO, "by version 2, this one by 1" },
	{ HANDOVER_MAGIC, 1, 0, 0, 0, 0, 0, -EBADMSG, "unknown type 0" },
	{ HANDOVER_MAGIC, 1, 6, 0, 0, 0, 0, -EBADMSG, "unknown type 6" },
	{ HANDOVER_MAGIC, 1, 0xffff, 0, 0, 0, 0, -EBADMSG, "unknown type 65535" },
	{ HANDOVER_MAGIC, 1, HANDOVER_GO, 4, 0, 0, 0, -EBADMSG, "0 bytes that should be 4" },
	{ HANDOVER_MAGIC, 1, HANDOVER_GO, 0, 4, 0, 0, -EBADMSG, "4 bytes that should be 0" },
	{ HANDOVER_MAGIC, 1, HANDOVER_GO, 4, 4, 0, 0, -EBADMSG, "GO: 4 bytes" },
	{ HANDOVER_MAGIC, 1, HANDOVER_GO, 0, 0, 1, 0, -EBADMSG, "GO: 0 bytes and 1 descriptors" },
	{ HANDOVER_MAGIC, 1, HANDOVER_GO, 0xffffffff, 4, 0, 0, -EBADMSG, "should be 4294967295" },
	{ HANDOVER_MAGIC, 1, HANDOVER_READY, 39, 39, 0, 0, -EBADMSG, "READY: 39 bytes" },
	{ HANDOVER_MAGIC, 1, HANDOVER_READY, 40, 40, 0, 'x', -EBADMSG, "has no end" },
	{ HANDOVER_MAGIC, 1, HANDOVER_REFUSED, 516, 516, 0, 0, -EBADMSG, "REFUSED: error 0" },
	{ HANDOVER_MAGIC, 1, HANDOVER_REFUSED, 516, 516, 0, 'x', -EBADMSG, "REFUSED: error" },
	{ HANDOVER_MAGIC, 1, HANDOVER_DONE, 520, 520, 0, 0, -EBADMSG, "DONE: 0 queues" },
	{ HANDOVER_MAGIC, 1, HANDOVER_DONE, 520, 520, 0, 0x41, -EBADMSG, "DONE: 1094795585 queues" },
	{ HANDOVER_MAGIC, 1, HANDOVER_DONE, 8, 8, 0, 1, -EBADMSG, "DONE: 8 bytes" },
	{ HANDOVER_MAGIC, 1, HANDOVER_OFFER, 3, 3, 0, 0, -EBADMSG, "OFFER: only 3 bytes" },
};

static void test_bad_messages(void **state)
{
	char bytes[1024];
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bad_messages); i++) {
		const struct bad_message *b = &bad_messages[i];
		const struct handover_header h = {
			.magic = b->magic, .version = b->version, .type = b->type,
			.length = b->length,
		};
		static const int fds[] = { 900 };
		struct handover_message m;
		struct error e = ERROR_INIT;

		memset(bytes, b->fill, sizeof(bytes));
		memcpy(bytes, &h, sizeof(h));
		assert_int_equal(handover_parse(bytes, sizeof(h) + b->size, fds, b->nfds, &m, &e),
				 b->err);
		if (b->message && !strstr(e.text, b->message))
			fail_msg("message %u: \"%s\", not \"%s\"", i, e.text, b->message);
	}
	for (i = 0; i < sizeof(struct handover_header); i++) {
		struct handover_message m;
		struct error e = ERROR_INIT;

		assert_int_equal(handover_parse(bytes, i, NULL, 0, &m, &e), -EBADMSG);
	}
}

/* Whatever is wrong with a message, the descriptors that came with it are closed. */
static void test_bad_descriptors(void **state)
{
	char control[CMSG_SPACE(8 * sizeof(int))] = { 0 };
	const unsigned int before = open_files();
	unsigned int n;

	(void)state;
	for (n = 1; n <= 8; n++) {
		struct handover_header h = { .magic = HANDOVER_MAGIC, .version = HANDOVER_VERSION,
					     .type = HANDOVER_GO };
		struct iovec iov = { &h, sizeof(h) };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		struct handover_message got;
		struct error e = ERROR_INIT;
		unsigned int i;

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		for (i = 0; i < n; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &pair[0], sizeof(int));
		assert_int_equal(sendmsg(pair[0], &msg, 0), sizeof(h));
		assert_int_equal(handover_receive(pair[1], &got, &e), -EBADMSG);
		assert_int_equal(open_files(), before);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_offer, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_others, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_socket, set_up, tear_down),
		cmocka_unit_test(test_bad_offers),
		cmocka_unit_test(test_bad_messages),
		cmocka_unit_test_setup_teardown(test_bad_descriptors, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
