// SPDX-License-Identifier: MIT
/*
 * Server of the control socket.
 *
 * A client is in one phase at a time and has at most one operation in flight:
 *
 *	FREE -> READING	 a line is received
 *		WAITING	 the owner has the request
 *		WRITING	 the answer goes out; then READING the next line, which
 *			 may have come already
 *		CLOSING	 until the operation in flight has ended; then FREE
 *
 * Nothing is read while a request is at work, so a client that sends without
 * reading fills its own socket and no memory of ours. READING and WRITING end
 * after a while, whatever the client does, since there are only so many places.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/control_socket.h"
#include "cmd/json_text.h"
#include "cmd/runtime.h"

#define BACKLOG		16
#define ACCEPT_AGAIN_MS	1000 /* after running out of descriptors or memory */
#define LAST_ANSWER_MS	500 /* for an answer to go out when the server closes */
#define PEER_GROUPS_MAX	65536

enum client_phase {
	CLIENT_FREE,
	CLIENT_READING,
	CLIENT_WAITING,
	CLIENT_WRITING,
	CLIENT_CLOSING,
};

struct client {
	struct control_request request;
	struct control_server *server;
	enum client_phase phase;
	int fd;
	struct loop_op op;
	bool in_flight;
	bool last; /* closed after this answer */
	struct loop_timer deadline;
	char *line; /* CONTROL_LINE_MAX */
	size_t used;
	char *answer;
	size_t length, sent;
};

struct control_server {
	struct control_params params;
	struct loop_op accept_op;
	bool accepting;
	bool closing;
	bool paused;
	struct loop_timer accept_again;
	struct client clients[CONTROL_CLIENTS_MAX];
};

static void read_more(struct client *c);
static void take_line(struct client *c);

/* The end of a client */

static void free_client(struct client *c)
{
	close(c->fd);
	free(c->line);
	free(c->answer);
	json_decref(c->request.document);
	c->line = NULL;
	c->answer = NULL;
	c->request.document = NULL;
	c->phase = CLIENT_FREE;
	if (c->server->closing)
		loop_stop(c->server->params.loop);
}

static void close_client(struct client *c)
{
	loop_timer_cancel(c->server->params.loop, &c->deadline);
	if (!c->in_flight) {
		free_client(c);
		return;
	}
	c->phase = CLIENT_CLOSING;
	loop_cancel(c->server->params.loop, &c->op);
}

static void deadline_expired(struct loop_timer *timer)
{
	struct client *c = container_of(timer, struct client, deadline);

	log_debug("control socket: process %d is too slow: dropped", (int)c->request.peer.pid);
	close_client(c);
}

static void begin_turn(struct client *c, enum client_phase phase)
{
	c->phase = phase;
	loop_timer_arm(c->server->params.loop, &c->deadline, c->server->params.turn_ms);
}

/* Answers */

static void write_more(struct client *c)
{
	c->in_flight = true;
	io_uring_prep_send(loop_sqe(c->server->params.loop, &c->op), c->fd, c->answer + c->sent,
			   c->length - c->sent, MSG_NOSIGNAL);
}

static void written(struct client *c, int res)
{
	if (res <= 0) {
		close_client(c);
		return;
	}
	c->sent += (size_t)res;
	if (c->sent < c->length) {
		write_more(c);
		return;
	}
	free(c->answer);
	c->answer = NULL;
	if (c->last) {
		close_client(c);
		return;
	}
	begin_turn(c, CLIENT_READING);
	take_line(c);
}

static json_t *refusal(const struct error *e)
{
	const char *name = strerrorname_np(e->errnum ? e->errnum : EINVAL);

	/* The text may quote half a character of the request. */
	return json_pack("{s:b, s:o, s:s}", "ok", 0, "error", json_text(e->text), "errno",
			 name ? name : "EINVAL");
}

static void send_answer(struct client *c, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;

	json_decref(answer);
	json_decref(c->request.document);
	c->request.document = NULL;
	if (!text) {
		log_error("control socket: out of memory, a request is not answered");
		close_client(c);
		return;
	}
	c->answer = text;
	c->sent = 0;
	c->length = strlen(text);
	/* The line ends where the string did. */
	text[c->length++] = '\n';
	begin_turn(c, CLIENT_WRITING);
	write_more(c);
}

void control_answer(struct control_request *r, json_t *answer)
{
	json_t *whole = json_pack("{s:b}", "ok", 1);

	if (whole && answer && json_object_update(whole, answer)) {
		json_decref(whole);
		whole = NULL;
	}
	json_decref(answer);
	send_answer(container_of(r, struct client, request), whole);
}

void control_refuse(struct control_request *r, const struct error *e)
{
	send_answer(container_of(r, struct client, request), refusal(e));
}

/* Requests */

/*
 * Numbers that do not fit and strings that are no UTF-8 are errors of the parser,
 * nesting is limited by it; of two members with one name nobody could say which
 * one counts.
 */
static int parse_line(const char *line, size_t length, json_t **ret_document, struct error *e)
{
	json_error_t why;
	json_t *document = json_loadb(line, length, JSON_REJECT_DUPLICATES, &why);

	if (!document)
		return err_set(e, EINVAL, "not JSON: %s, column %d", why.text, why.column);
	if (!json_is_object(document)) {
		json_decref(document);
		return err_set(e, EINVAL, "a request is a JSON object");
	}
	*ret_document = document;
	return 0;
}

/* Take the first line out of the buffer. */
static void take_line(struct client *c)
{
	const char *end = memchr(c->line, '\n', c->used);
	struct error e = ERROR_INIT;
	size_t length;
	int err;

	if (!end && c->used < CONTROL_LINE_MAX) {
		read_more(c);
		return;
	}
	loop_timer_cancel(c->server->params.loop, &c->deadline);
	c->phase = CLIENT_WAITING;
	if (!end) {
		c->last = true;
		err_set(&e, EMSGSIZE, "the request is longer than %u bytes", CONTROL_LINE_MAX);
		control_refuse(&c->request, &e);
		return;
	}
	length = (size_t)(end - c->line);
	err = parse_line(c->line, length, &c->request.document, &e);
	c->used -= length + 1;
	memmove(c->line, end + 1, c->used);
	if (err)
		control_refuse(&c->request, &e);
	else
		c->server->params.handle(c->server->params.opaque, &c->request);
}

static void read_more(struct client *c)
{
	c->in_flight = true;
	io_uring_prep_recv(loop_sqe(c->server->params.loop, &c->op), c->fd, c->line + c->used,
			   CONTROL_LINE_MAX - c->used, 0);
}

static void received(struct client *c, int res)
{
	if (res <= 0) {
		close_client(c);
		return;
	}
	c->used += (size_t)res;
	take_line(c);
}

static void again(struct client *c)
{
	if (c->phase == CLIENT_READING)
		read_more(c);
	else
		write_more(c);
}

static void client_op_done(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct client *c = container_of(op, struct client, op);

	(void)cqe_flags;
	c->in_flight = false;
	if (c->phase == CLIENT_CLOSING)
		free_client(c);
	else if (res == -EINTR || res == -EAGAIN)
		again(c);
	else if (c->phase == CLIENT_READING)
		received(c, res);
	else
		written(c, res);
}

/* Who comes in */

static bool in_groups(int fd, gid_t group)
{
	auto_free gid_t *groups = calloc(PEER_GROUPS_MAX, sizeof(*groups));
	socklen_t size = PEER_GROUPS_MAX * sizeof(*groups);
	size_t i;

	if (!groups || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size))
		return false;
	for (i = 0; i < size / sizeof(*groups); i++) {
		if (groups[i] == group)
			return true;
	}
	return false;
}

/* The mode of the socket says the same; this holds whatever becomes of the mode. */
static int check_peer(const struct control_server *s, int fd, struct control_peer *ret_peer,
		      struct error *e)
{
	const gid_t group = s->params.group;
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size))
		return err_set_errno(e, errno, "who is it?");
	if (cred.uid && cred.uid != geteuid() &&
	    (group == CONTROL_NO_GROUP || (cred.gid != group && !in_groups(fd, group)))) {
		log_warning_ratelimited("control socket: user %u, process %d is refused",
					(unsigned int)cred.uid, (int)cred.pid);
		return err_set(e, EPERM, "user %u may not control this device",
			       (unsigned int)cred.uid);
	}
	*ret_peer = (struct control_peer) { .pid = cred.pid, .uid = cred.uid, .gid = cred.gid };
	return 0;
}

static int seat(struct control_server *s, int fd, const struct control_peer *peer, struct error *e)
{
	struct client *c = NULL;
	unsigned int i;
	char *line;

	for (i = 0; i < CONTROL_CLIENTS_MAX && !c; i++) {
		if (s->clients[i].phase == CLIENT_FREE)
			c = &s->clients[i];
	}
	if (!c)
		return err_set(e, EBUSY, "%u others are connected already", CONTROL_CLIENTS_MAX);
	line = malloc(CONTROL_LINE_MAX);
	if (!line)
		return err_set(e, ENOMEM, "out of memory");
	*c = (struct client) {
		.request.peer = *peer,
		.server = s,
		.fd = fd,
		.op.complete = client_op_done,
		.deadline.expired = deadline_expired,
		.line = line,
	};
	begin_turn(c, CLIENT_READING);
	read_more(c);
	return 0;
}

/* One line, if the socket takes it at once: a new one does. */
static void refuse_at_door(int fd, const struct error *e)
{
	json_t *document = refusal(e);
	char *text = document ? json_dumps(document, JSON_COMPACT) : NULL;
	size_t length;

	if (text) {
		length = strlen(text);
		text[length++] = '\n';
		if (send(fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			log_debug("control socket: a refusal was not sent: %s", strerror(errno));
	}
	free(text);
	json_decref(document);
	close(fd);
}

static void let_in(struct control_server *s, int fd)
{
	struct control_peer peer = { 0 };
	struct error e = ERROR_INIT;

	if (check_peer(s, fd, &peer, &e) || seat(s, fd, &peer, &e))
		refuse_at_door(fd, &e);
}

static void accept_next(struct control_server *s)
{
	if (s->paused)
		return;
	s->accepting = true;
	io_uring_prep_accept(loop_sqe(s->params.loop, &s->accept_op), s->params.fd, NULL, NULL,
			     SOCK_CLOEXEC);
}

static void accept_again(struct loop_timer *timer)
{
	accept_next(container_of(timer, struct control_server, accept_again));
}

static void accepted(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct control_server *s = container_of(op, struct control_server, accept_op);

	(void)cqe_flags;
	s->accepting = false;
	if (s->closing) {
		if (res >= 0)
			close(res);
		loop_stop(s->params.loop);
		return;
	}
	if (res >= 0) {
		let_in(s, res);
		accept_next(s);
	} else if (res == -EINTR || res == -EAGAIN || res == -ECONNABORTED || s->paused) {
		accept_next(s);
	} else {
		log_error_ratelimited("control socket: %s", strerror(-res));
		loop_timer_arm(s->params.loop, &s->accept_again, ACCEPT_AGAIN_MS);
	}
}

/* Life */

/* The file has its mode from the beginning, whatever the umask. No other thread yet. */
static int bind_with_mode(int fd, const struct sockaddr_un *addr, mode_t mode, struct error *e)
{
	mode_t old;
	int err = 0;

	if (fchmod(fd, mode))
		return err_set_errno(e, errno, "set the mode of a socket");
	old = umask(0);
	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)))
		err = err_set_errno(e, errno, "create %s", addr->sun_path);
	umask(old);
	return err;
}

int control_socket_bind(const char *root, const char *name, uid_t uid, gid_t group, int *ret_fd,
			struct error *e)
{
	const mode_t mode = group == CONTROL_NO_GROUP ? 0600 : 0660;
	struct sockaddr_un addr;
	auto_close int fd = -1;
	int err;

	err = runtime_control_address(root, name, &addr, e);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "create a socket");
	err = bind_with_mode(fd, &addr, mode, e);
	if (err)
		return err;
	/*
	 * The folder is the account's by now, who may put something else there: it gets
	 * no more than a link of its own. CONTROL_NO_GROUP leaves the group as it is.
	 */
	if (lchown(addr.sun_path, uid, group)) {
		err = err_set_errno(e, errno, "give %s to its user", addr.sun_path);
		unlink(addr.sun_path);
		return err;
	}
	*ret_fd = take_fd(&fd);
	return 0;
}

int control_server_open(const struct control_params *params, struct control_server **ret_server,
			struct error *e)
{
	struct control_server *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, ENOMEM, "out of memory");
	if (listen(params->fd, BACKLOG)) {
		free(s);
		return err_set_errno(e, errno, "listen on the control socket");
	}
	s->params = *params;
	if (!s->params.turn_ms)
		s->params.turn_ms = CONTROL_TURN_MS;
	s->accept_op.complete = accepted;
	s->accept_again.expired = accept_again;
	accept_next(s);
	*ret_server = s;
	return 0;
}

static bool has_clients(const struct control_server *s)
{
	unsigned int i;

	for (i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (s->clients[i].phase != CLIENT_FREE)
			return true;
	}
	return false;
}

void control_server_pause(struct control_server *s)
{
	s->paused = true;
	loop_timer_cancel(s->params.loop, &s->accept_again);
	if (s->accepting)
		loop_cancel(s->params.loop, &s->accept_op);
}

static void begin_closing(struct client *c)
{
	if (c->phase == CLIENT_FREE || c->phase == CLIENT_CLOSING)
		return;
	if (c->phase != CLIENT_WRITING) {
		close_client(c);
		return;
	}
	c->last = true;
	loop_timer_arm(c->server->params.loop, &c->deadline, LAST_ANSWER_MS);
}

void control_server_close(struct control_server *s)
{
	unsigned int i;

	if (!s)
		return;
	s->closing = true;
	loop_timer_cancel(s->params.loop, &s->accept_again);
	if (s->accepting)
		loop_cancel(s->params.loop, &s->accept_op);
	for (i = 0; i < CONTROL_CLIENTS_MAX; i++)
		begin_closing(&s->clients[i]);
	while (s->accepting || has_clients(s))
		loop_run(s->params.loop);
	close(s->params.fd);
	free(s);
}
