// SPDX-License-Identifier: MIT
/*
 * The message state machine, driven without a kernel: a table-like owner
 * records what it is asked to do and answers at once or later.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_config.h>

#include "base/util.h"
#include "transport/vduse_messages.h"

#define NQUEUES		4u
#define S_ACK		VIRTIO_CONFIG_S_ACKNOWLEDGE
#define S_DRIVER	(S_ACK | VIRTIO_CONFIG_S_DRIVER)
#define S_FEATURES	(S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)
#define S_OK		(S_FEATURES | VIRTIO_CONFIG_S_DRIVER_OK)

struct owner {
	struct vduse_messages m;
	bool features_bad;
	bool hold; /* do not answer from inside the call */
	unsigned int starts, fresh_starts, adopted_starts, stops, queries, answers;
	uint64_t first, last; /* of the last stop */
	struct vduse_dev_response response;
	uint32_t next_id;
};

static struct owner *owner_of(struct vduse_messages *m)
{
	return container_of(m, struct owner, m);
}

static bool features_ok(struct vduse_messages *m)
{
	return !owner_of(m)->features_bad;
}

static void start(struct vduse_messages *m, enum vduse_start how)
{
	struct owner *o = owner_of(m);

	o->starts++;
	o->fresh_starts += how == VDUSE_START_FRESH;
	o->adopted_starts += how == VDUSE_START_ADOPT;
	if (!o->hold)
		vduse_messages_start_done(m, 0);
}

static void stop(struct vduse_messages *m, uint64_t first, uint64_t last)
{
	struct owner *o = owner_of(m);

	o->stops++;
	o->first = first;
	o->last = last;
	if (!o->hold)
		vduse_messages_stop_done(m);
}

static void vq_state(struct vduse_messages *m, uint32_t index)
{
	struct owner *o = owner_of(m);
	struct vduse_vq_state state = { .index = index, .split.avail_index = 77 };

	o->queries++;
	if (!o->hold)
		vduse_messages_vq_state_done(m, 0, &state);
}

static void respond(struct vduse_messages *m, const struct vduse_dev_response *response)
{
	struct owner *o = owner_of(m);

	o->answers++;
	o->response = *response;
}

static const struct vduse_messages_ops ops = {
	.features_ok = features_ok,
	.start = start,
	.stop = stop,
	.vq_state = vq_state,
	.respond = respond,
};

static void init(struct owner *o)
{
	*o = (struct owner) { .next_id = 1000 };
	vduse_messages_init(&o->m, &ops, NQUEUES);
}

static void request(struct owner *o, struct vduse_dev_request request)
{
	const unsigned int answers = o->answers;

	request.request_id = o->next_id++;
	vduse_messages_request(&o->m, &request);
	if (vduse_messages_busy(&o->m)) {
		assert_int_equal(o->answers, answers);
		return;
	}
	assert_int_equal(o->answers, answers + 1);
	assert_int_equal(o->response.request_id, request.request_id);
}

static void expect_answer(struct owner *o, bool ok)
{
	assert_false(vduse_messages_busy(&o->m));
	assert_int_equal(o->response.request_id, o->next_id - 1);
	assert_int_equal(o->response.result,
			 ok ? VDUSE_REQ_RESULT_OK : VDUSE_REQ_RESULT_FAILED);
	for (unsigned int i = 0; i < ARRAY_SIZE(o->response.reserved); i++)
		assert_int_equal(o->response.reserved[i], 0);
}

static void set_status(struct owner *o, uint8_t status)
{
	request(o, (struct vduse_dev_request) { .type = VDUSE_SET_STATUS, .s.status = status });
}

static void update_iotlb(struct owner *o, uint64_t start_, uint64_t last)
{
	request(o, (struct vduse_dev_request) { .type = VDUSE_UPDATE_IOTLB,
						.iova = { start_, last } });
}

static void bring_up(struct owner *o)
{
	static const uint8_t steps[] = { S_ACK, S_DRIVER, S_FEATURES, S_OK };

	for (unsigned int i = 0; i < ARRAY_SIZE(steps); i++) {
		set_status(o, steps[i]);
		expect_answer(o, true);
		assert_int_equal(o->m.status, steps[i]);
	}
	assert_int_equal(o->m.phase, VDUSE_PHASE_RUNNING);
}

static void test_bring_up_and_reset(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	assert_int_equal(o.starts, 1);
	assert_int_equal(o.fresh_starts, 1);
	assert_int_equal(o.stops, 0);

	set_status(&o, 0);
	expect_answer(&o, true);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
	assert_int_equal(o.m.status, 0);
	assert_int_equal(o.stops, 1);
	/* A reset forgets the whole address space. */
	assert_int_equal(o.first, 0);
	assert_true(o.last == UINT64_MAX);

	bring_up(&o);
	assert_int_equal(o.fresh_starts, 2);
}

static void test_reset_waits_for_drain(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	o.hold = true;
	set_status(&o, 0);
	assert_true(vduse_messages_busy(&o.m));
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPING);
	vduse_messages_stop_done(&o.m);
	expect_answer(&o, true);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
}

static void test_start_failure(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	set_status(&o, S_ACK);
	set_status(&o, S_DRIVER);
	set_status(&o, S_FEATURES);
	o.hold = true;
	set_status(&o, S_OK);
	assert_true(vduse_messages_busy(&o.m));
	vduse_messages_start_done(&o.m, -EFAULT);
	expect_answer(&o, false);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
	assert_int_equal(o.m.status, S_FEATURES);
	/* The driver may try again. */
	o.hold = false;
	set_status(&o, S_OK);
	expect_answer(&o, true);
	assert_int_equal(o.m.phase, VDUSE_PHASE_RUNNING);
}

static void test_features_refused(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	set_status(&o, S_DRIVER);
	o.features_bad = true;
	set_status(&o, S_FEATURES);
	expect_answer(&o, false);
	assert_int_equal(o.m.status, S_DRIVER);
	assert_int_equal(o.starts, 0);
}

static void test_bits_may_not_be_taken_back(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	set_status(&o, S_FEATURES);
	expect_answer(&o, false);
	assert_int_equal(o.m.phase, VDUSE_PHASE_RUNNING);
	assert_int_equal(o.m.status, S_OK);
}

static void test_same_status_starts_once(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	set_status(&o, S_OK);
	expect_answer(&o, true);
	assert_int_equal(o.starts, 1);
}

static void test_driver_failed(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	set_status(&o, S_OK | VIRTIO_CONFIG_S_FAILED);
	expect_answer(&o, true);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
	/* Mappings may stay: an empty range. */
	assert_true(o.first > o.last);
}

static void test_iotlb_while_running(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	o.hold = true;
	update_iotlb(&o, 0x1000, 0x1fff);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPING);
	assert_true(o.first == 0x1000 && o.last == 0x1fff);
	vduse_messages_stop_done(&o.m);
	/* Continues, and answers only when it does. */
	assert_true(vduse_messages_busy(&o.m));
	assert_int_equal(o.m.phase, VDUSE_PHASE_STARTING);
	assert_int_equal(o.starts, 2);
	assert_int_equal(o.fresh_starts, 1);
	vduse_messages_start_done(&o.m, 0);
	expect_answer(&o, true);
	assert_int_equal(o.m.phase, VDUSE_PHASE_RUNNING);
	assert_int_equal(o.m.status, S_OK);
}

static void test_iotlb_restart_failure(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	bring_up(&o);
	o.hold = true;
	update_iotlb(&o, 0, UINT64_MAX);
	vduse_messages_stop_done(&o.m);
	vduse_messages_start_done(&o.m, -EFAULT);
	expect_answer(&o, false);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
}

static void test_iotlb_while_stopped(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	update_iotlb(&o, 0, UINT64_MAX);
	expect_answer(&o, true);
	assert_int_equal(o.starts, 0);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);

	update_iotlb(&o, 5, 4);
	expect_answer(&o, false);
	assert_int_equal(o.stops, 1);
}

static void test_vq_state(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	request(&o, (struct vduse_dev_request) { .type = VDUSE_GET_VQ_STATE,
						 .vq_state.index = NQUEUES - 1 });
	expect_answer(&o, true);
	assert_int_equal(o.response.vq_state.index, NQUEUES - 1);
	assert_int_equal(o.response.vq_state.split.avail_index, 77);

	request(&o, (struct vduse_dev_request) { .type = VDUSE_GET_VQ_STATE,
						 .vq_state.index = NQUEUES });
	expect_answer(&o, false);
	assert_int_equal(o.queries, 1);

	o.hold = true;
	request(&o, (struct vduse_dev_request) { .type = VDUSE_GET_VQ_STATE });
	assert_true(vduse_messages_busy(&o.m));
	vduse_messages_vq_state_done(&o.m, -EIO, NULL);
	expect_answer(&o, false);
}

static void test_unknown_type(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	request(&o, (struct vduse_dev_request) { .type = 12345 });
	expect_answer(&o, false);
}

/* Nothing waits: the queues go on where the log says. */
static void test_adopt(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	vduse_messages_adopt(&o.m, S_OK);
	assert_int_equal(o.m.phase, VDUSE_PHASE_ADOPTED);
	assert_int_equal(o.starts, 0);
	o.hold = true;
	vduse_messages_start_adopted(&o.m);
	assert_true(vduse_messages_busy(&o.m));
	assert_int_equal(o.adopted_starts, 1);
	vduse_messages_start_done(&o.m, 0);
	assert_false(vduse_messages_busy(&o.m));
	assert_int_equal(o.answers, 0);
	assert_int_equal(o.m.phase, VDUSE_PHASE_RUNNING);
	assert_int_equal(o.m.status, S_OK);
	o.hold = false;
	vduse_messages_start_adopted(&o.m);
	assert_int_equal(o.starts, 1);

	update_iotlb(&o, 0, 1);
	expect_answer(&o, true);
	assert_int_equal(o.starts, 2);
	assert_int_equal(o.adopted_starts, 1);
	assert_int_equal(o.fresh_starts, 0);
}

/* A driver that was not ready, or had given up, has nothing in flight. */
static void test_adopt_not_running(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	vduse_messages_adopt(&o.m, S_FEATURES);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
	vduse_messages_start_adopted(&o.m);
	assert_int_equal(o.starts, 0);
	set_status(&o, S_OK);
	expect_answer(&o, true);
	assert_int_equal(o.fresh_starts, 1);

	init(&o);
	vduse_messages_adopt(&o.m, S_OK | VIRTIO_CONFIG_S_FAILED);
	assert_int_equal(o.m.phase, VDUSE_PHASE_STOPPED);
}

/* The driver was reset while nobody served it: its rings are gone. */
static void test_adopt_reset_waits(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	vduse_messages_adopt(&o.m, S_OK);
	set_status(&o, 0);
	expect_answer(&o, true);
	vduse_messages_start_adopted(&o.m);
	assert_int_equal(o.starts, 0);
	bring_up(&o);
	assert_int_equal(o.fresh_starts, 1);
	assert_int_equal(o.adopted_starts, 0);

	init(&o);
	vduse_messages_adopt(&o.m, S_OK);
	set_status(&o, S_OK | VIRTIO_CONFIG_S_FAILED);
	expect_answer(&o, true);
	vduse_messages_start_adopted(&o.m);
	assert_int_equal(o.starts, 0);
}

/* What the dead process had not answered comes again; it starts nothing twice. */
static void test_adopt_asked_again(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	vduse_messages_adopt(&o.m, S_OK);
	set_status(&o, S_OK);
	expect_answer(&o, true);
	update_iotlb(&o, 0, UINT64_MAX);
	expect_answer(&o, true);
	assert_int_equal(o.stops, 0);
	assert_int_equal(o.starts, 0);
	assert_int_equal(o.m.phase, VDUSE_PHASE_ADOPTED);

	/* The position in a ring is known once the queues have begun. */
	o.hold = true;
	request(&o, (struct vduse_dev_request) { .type = VDUSE_GET_VQ_STATE });
	assert_int_equal(o.adopted_starts, 1);
	assert_int_equal(o.queries, 0);
	o.hold = false;
	vduse_messages_start_done(&o.m, 0);
	expect_answer(&o, true);
	assert_int_equal(o.queries, 1);
	assert_int_equal(o.m.phase, VDUSE_PHASE_RUNNING);
}

/* The log is left for another try. */
static void test_adopt_failure(void **state)
{
	struct owner o;

	(void)state;
	init(&o);
	vduse_messages_adopt(&o.m, S_OK);
	o.hold = true;
	vduse_messages_start_adopted(&o.m);
	vduse_messages_start_done(&o.m, -EINVAL);
	assert_false(vduse_messages_busy(&o.m));
	assert_int_equal(o.answers, 0);
	assert_int_equal(o.m.phase, VDUSE_PHASE_ADOPTED);
	assert_int_equal(o.m.status, S_OK);
	request(&o, (struct vduse_dev_request) { .type = VDUSE_GET_VQ_STATE });
	vduse_messages_start_done(&o.m, -EINVAL);
	expect_answer(&o, false);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bring_up_and_reset),
		cmocka_unit_test(test_reset_waits_for_drain),
		cmocka_unit_test(test_start_failure),
		cmocka_unit_test(test_features_refused),
		cmocka_unit_test(test_bits_may_not_be_taken_back),
		cmocka_unit_test(test_same_status_starts_once),
		cmocka_unit_test(test_driver_failed),
		cmocka_unit_test(test_iotlb_while_running),
		cmocka_unit_test(test_iotlb_restart_failure),
		cmocka_unit_test(test_iotlb_while_stopped),
		cmocka_unit_test(test_vq_state),
		cmocka_unit_test(test_unknown_type),
		cmocka_unit_test(test_adopt),
		cmocka_unit_test(test_adopt_not_running),
		cmocka_unit_test(test_adopt_reset_waits),
		cmocka_unit_test(test_adopt_asked_again),
		cmocka_unit_test(test_adopt_failure),
	};

	return cmocka_run_group_tests_name("vduse_messages", tests, NULL, NULL);
}
