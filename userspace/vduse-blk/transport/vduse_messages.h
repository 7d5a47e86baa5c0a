/* SPDX-License-Identifier: MIT */
/*
 * State machine behind VDUSE's control messages.
 *
 * The kernel asks three things of the process behind a VDUSE device: the state
 * of a virtqueue, to follow the driver's status byte, and to forget part of the
 * address space. Each may have to wait for the queue threads, so the machine
 * takes one request at a time, tells its owner through struct
 * vduse_messages_ops what to do, learns the outcome through the *_done()
 * functions and then gives the one answer. It does no I/O and owns no memory
 * but itself, so tests drive it without a kernel.
 */
#ifndef VDUSE_BLK_TRANSPORT_VDUSE_MESSAGES_H
#define VDUSE_BLK_TRANSPORT_VDUSE_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/vduse.h>

/**
 * enum vduse_phase - what the virtqueues are doing
 * @VDUSE_PHASE_STOPPED:	no queue touches the rings
 * @VDUSE_PHASE_ADOPTED:	queues shall go on where those of a predecessor were
 *				killed; none does yet
 * @VDUSE_PHASE_STARTING:	start() was called, start_done() is awaited
 * @VDUSE_PHASE_RUNNING:	queues serve the rings
 * @VDUSE_PHASE_STOPPING:	stop() was called, stop_done() is awaited
 * @VDUSE_PHASE_MAX:		number of phases
 */
enum vduse_phase {
	VDUSE_PHASE_STOPPED,
	VDUSE_PHASE_ADOPTED,
	VDUSE_PHASE_STARTING,
	VDUSE_PHASE_RUNNING,
	VDUSE_PHASE_STOPPING,
	VDUSE_PHASE_MAX,
};

/**
 * enum vduse_start - where virtqueues begin
 * @VDUSE_START_FRESH:	the driver set them up: where the kernel says
 * @VDUSE_START_RESUME:	where stop() left them
 * @VDUSE_START_ADOPT:	where a predecessor was killed: where its log says
 */
enum vduse_start {
	VDUSE_START_FRESH,
	VDUSE_START_RESUME,
	VDUSE_START_ADOPT,
};

struct vduse_messages;

/**
 * struct vduse_messages_ops - what the owner of the state machine does for it
 * @features_ok:	may the driver's choice of features stand?
 * @start:		start the virtqueues that the driver made ready. Answered by
 *			vduse_messages_start_done(), perhaps from inside.
 * @stop:		finish what is in flight, leave the rings alone, then forget
 *		every mapping that touches [@first, @last] (none when @first >
 *		@last); also called when no queue runs. Answered by
 *		vduse_messages_stop_done(), perhaps from inside
 * @vq_state:		fill @state for virtqueue @state->index; answered by
 *			vduse_messages_vq_state_done(), perhaps from inside
 * @respond:		write the answer to the kernel
 */
struct vduse_messages_ops {
	bool (*features_ok)(struct vduse_messages *m);
	void (*start)(struct vduse_messages *m, enum vduse_start how);
	void (*stop)(struct vduse_messages *m, uint64_t first, uint64_t last);
	void (*vq_state)(struct vduse_messages *m, uint32_t index);
	void (*respond)(struct vduse_messages *m,
			const struct vduse_dev_response *response);
};

/**
 * struct vduse_messages - the state machine; fields are private
 * @ops:	the owner's side
 * @nqueues:	number of virtqueues of the device
 * @phase:	what the virtqueues do
 * @status:	the driver's status byte as last accepted
 * @resume:	queues go on once what stopped them is done
 * @busy:	@request has not been answered, or an adopted device is starting
 * @adopting:	the start at work is of an adopted device
 * @asked:	there is a @request at work
 * @request:	the request at work
 */
struct vduse_messages {
	const struct vduse_messages_ops *ops;
	uint32_t nqueues;
	enum vduse_phase phase;
	uint8_t status;
	bool resume;
	bool busy;
	bool adopting;
	bool asked;
	struct vduse_dev_request request;
};

/**
 * vduse_messages_init - start with a device that was just reset
 * @m:		the state machine
 * @ops:	the owner's side
 * @nqueues:	number of virtqueues
 */
void vduse_messages_init(struct vduse_messages *m,
			 const struct vduse_messages_ops *ops,
			 uint32_t nqueues);

/**
 * vduse_messages_adopt - go on with a device whose process was killed
 * @m:		the state machine, initialized, before any request
 * @status:	the driver's status byte that was answered last
 *
 * With DRIVER_OK in it, requests that the kernel holds for us come first, and
 * then vduse_messages_start_adopted().
 */
void vduse_messages_adopt(struct vduse_messages *m, uint8_t status);

/**
 * vduse_messages_start_adopted - no request is waiting: start the virtqueues
 * @m:		the state machine, not busy
 *
 * Does nothing unless it is in VDUSE_PHASE_ADOPTED: a reset may have come, or a
 * request that needed the queues.
 */
void vduse_messages_start_adopted(struct vduse_messages *m);

/**
 * vduse_messages_busy - is a request or a start at work?
 * @m: the state machine
 *
 * The owner reads the next request from the kernel only when this is false.
 */
static inline bool vduse_messages_busy(const struct vduse_messages *m)
{
	return m->busy;
}

/**
 * vduse_messages_request - handle one request
 * @m:		the state machine; must not be busy
 * @request:	as read from the device; copied
 *
 * Every request gets exactly one answer, unknown ones a failure.
 */
void vduse_messages_request(struct vduse_messages *m,
			    const struct vduse_dev_request *request);

/**
 * vduse_messages_start_done - queues run, or could not be started
 * @m:		the state machine, in VDUSE_PHASE_STARTING
 * @error:	0 or a negative errno; on an error no queue runs
 *
 * An adopted device that cannot be started stays in VDUSE_PHASE_ADOPTED: what is
 * in its log is left for another successor.
 */
void vduse_messages_start_done(struct vduse_messages *m, int error);

/**
 * vduse_messages_stop_done - no queue touches the rings or the mappings any more
 * @m: the state machine, in VDUSE_PHASE_STOPPING
 */
void vduse_messages_stop_done(struct vduse_messages *m);

/**
 * vduse_messages_vq_state_done - the state of a virtqueue is known
 * @m:		the state machine, with a VDUSE_GET_VQ_STATE at work
 * @error:	0 or a negative errno
 * @state:	the state; not looked at on an error
 */
void vduse_messages_vq_state_done(struct vduse_messages *m, int error,
				  const struct vduse_vq_state *state);

#endif
