// SPDX-License-Identifier: MIT
/*
 * State machine behind VDUSE's control messages.
 *
 *   STOPPED --DRIVER_OK--> STARTING --start_done--> RUNNING
 *      ^                    |    ^                     |
 *      +----- error --------+    | new address space   | reset, FAILED or
 *      |                         | while running       | new address space
 *      +------------------- STOPPING <-----------------+
 *
 *   ADOPTED --no request waits--> STARTING, or --reset--> STOPPING
 *
 * A change of the address space while queues run goes through STOPPING and
 * STARTING: the answer promises that nothing uses the old mappings, and that is
 * only true when requests that point into them have completed. The queues then
 * continue from their own state; the kernel's copy dates from DRIVER_OK.
 *
 * A reset ends every mapping: the driver frees its rings once we answered, and
 * the same addresses may mean other memory the next time.
 *
 * A device whose process was killed begins in ADOPTED. What the kernel asked of
 * the dead process it asks again, and that may be a reset: the rings are gone
 * then, and nothing may be resubmitted from them. So requests that wait are
 * handled first. A change of the address space means nothing yet, there are no
 * mappings; a question for the position in a ring starts the queues.
 *
 * One request is at work at a time. The kernel serialises what can follow from
 * each other anyway, and an order that is the order of arrival cannot be wrong.
 */
#include <assert.h>
#include <string.h>

#include <linux/virtio_config.h>

#include "transport/vduse_messages.h"

void vduse_messages_init(struct vduse_messages *m,
			 const struct vduse_messages_ops *ops, uint32_t nqueues)
{
	*m = (struct vduse_messages) {
		.ops = ops,
		.nqueues = nqueues,
		.phase = VDUSE_PHASE_STOPPED,
	};
}

void vduse_messages_adopt(struct vduse_messages *m, uint8_t status)
{
	assert(!m->busy && m->phase == VDUSE_PHASE_STOPPED);
	m->status = status;
	if (status & VIRTIO_CONFIG_S_DRIVER_OK && !(status & VIRTIO_CONFIG_S_FAILED))
		m->phase = VDUSE_PHASE_ADOPTED;
}

static void respond(struct vduse_messages *m, bool ok,
		    const struct vduse_vq_state *state)
{
	struct vduse_dev_response response = {
		.request_id = m->request.request_id,
		.result = ok ? VDUSE_REQ_RESULT_OK : VDUSE_REQ_RESULT_FAILED,
	};

	if (state)
		response.vq_state = *state;
	m->busy = false;
	m->asked = false;
	m->ops->respond(m, &response);
}

static void stop(struct vduse_messages *m, bool resume, uint64_t first, uint64_t last)
{
	m->resume = resume;
	m->phase = VDUSE_PHASE_STOPPING;
	m->ops->stop(m, first, last);
}

static void start(struct vduse_messages *m, enum vduse_start how)
{
	m->adopting = how == VDUSE_START_ADOPT;
	m->phase = VDUSE_PHASE_STARTING;
	m->ops->start(m, how);
}

static void set_status(struct vduse_messages *m)
{
	const uint8_t status = m->request.s.status;
	const uint8_t set = status & ~m->status;

	if (!status) {
		stop(m, false, 0, UINT64_MAX);
		return;
	}
	/* A driver may only add bits; taking one back needs a reset. */
	if (m->status & ~status) {
		respond(m, false, NULL);
		return;
	}
	if (set & VIRTIO_CONFIG_S_FAILED) {
		stop(m, false, 1, 0);
		return;
	}
	if ((set & VIRTIO_CONFIG_S_FEATURES_OK) && !m->ops->features_ok(m)) {
		respond(m, false, NULL);
		return;
	}
	if (set & VIRTIO_CONFIG_S_DRIVER_OK) {
		start(m, VDUSE_START_FRESH);
		return;
	}
	m->status = status;
	respond(m, true, NULL);
}

static void get_vq_state(struct vduse_messages *m)
{
	if (m->request.vq_state.index >= m->nqueues) {
		respond(m, false, NULL);
		return;
	}
	if (m->phase == VDUSE_PHASE_ADOPTED) {
		start(m, VDUSE_START_ADOPT);
		return;
	}
	m->ops->vq_state(m, m->request.vq_state.index);
}

static void update_iotlb(struct vduse_messages *m)
{
	const struct vduse_iova_range *range = &m->request.iova;

	if (range->start > range->last) {
		respond(m, false, NULL);
		return;
	}
	if (m->phase == VDUSE_PHASE_ADOPTED) {
		respond(m, true, NULL);
		return;
	}
	stop(m, m->phase == VDUSE_PHASE_RUNNING, range->start, range->last);
}

void vduse_messages_start_adopted(struct vduse_messages *m)
{
	assert(!m->busy);
	if (m->phase != VDUSE_PHASE_ADOPTED)
		return;
	m->busy = true;
	start(m, VDUSE_START_ADOPT);
}

void vduse_messages_request(struct vduse_messages *m,
			    const struct vduse_dev_request *request)
{
	assert(!m->busy);
	m->request = *request;
	m->busy = true;
	m->asked = true;

	switch (request->type) {
	case VDUSE_GET_VQ_STATE:
		get_vq_state(m);
		break;
	case VDUSE_SET_STATUS:
		set_status(m);
		break;
	case VDUSE_UPDATE_IOTLB:
		update_iotlb(m);
		break;
	default:
		respond(m, false, NULL);
	}
}

void vduse_messages_start_done(struct vduse_messages *m, int error)
{
	assert(m->busy && m->phase == VDUSE_PHASE_STARTING);
	if (error)
		m->phase = m->adopting ? VDUSE_PHASE_ADOPTED : VDUSE_PHASE_STOPPED;
	else
		m->phase = VDUSE_PHASE_RUNNING;

	if (!m->asked) {
		m->busy = false;
		return;
	}
	if (!error && m->request.type == VDUSE_GET_VQ_STATE) {
		m->ops->vq_state(m, m->request.vq_state.index);
		return;
	}
	if (!error && m->request.type == VDUSE_SET_STATUS)
		m->status = m->request.s.status;
	respond(m, !error, NULL);
}

void vduse_messages_stop_done(struct vduse_messages *m)
{
	assert(m->busy && m->phase == VDUSE_PHASE_STOPPING);
	m->phase = VDUSE_PHASE_STOPPED;

	if (m->resume) {
		start(m, VDUSE_START_RESUME);
		return;
	}
	if (m->request.type == VDUSE_SET_STATUS)
		m->status = m->request.s.status;
	respond(m, true, NULL);
}

void vduse_messages_vq_state_done(struct vduse_messages *m, int error,
				  const struct vduse_vq_state *state)
{
	assert(m->busy && m->request.type == VDUSE_GET_VQ_STATE);
	respond(m, !error, error ? NULL : state);
}
