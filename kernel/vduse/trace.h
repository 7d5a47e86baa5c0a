/* SPDX-License-Identifier: GPL-2.0-only */
/* Tracepoints; they show under events/vduse/ of tracefs. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vduse

#if !defined(_VDUSE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _VDUSE_TRACE_H

#include <linux/dma-direction.h>
#include <linux/tracepoint.h>
#include <uapi/linux/vduse.h>

#define show_vduse_msg_type(type)				\
	__print_symbolic(type,					\
			 { VDUSE_GET_VQ_STATE, "GET_VQ_STATE" },	\
			 { VDUSE_SET_STATUS, "SET_STATUS" },	\
			 { VDUSE_UPDATE_IOTLB, "UPDATE_IOTLB" })

DECLARE_EVENT_CLASS(vduse_msg,
		    TP_PROTO(const char *name, u32 type, u32 id, int result),
		    TP_ARGS(name, type, id, result),
		    TP_STRUCT__entry(__string(name, name)
				     __field(u32, type)
				     __field(u32, id)
				     __field(int, result)),
		    TP_fast_assign(__assign_str(name);
				   __entry->type = type;
				   __entry->id = id;
				   __entry->result = result;),
		    TP_printk("%s: %s id %u result %d", __get_str(name),
			      show_vduse_msg_type(__entry->type), __entry->id,
			      __entry->result));

/* Queued for the daemon. */
DEFINE_EVENT(vduse_msg, vduse_msg_sent,
	     TP_PROTO(const char *name, u32 type, u32 id, int result),
	     TP_ARGS(name, type, id, result));

/* Answered by the daemon in time. */
DEFINE_EVENT(vduse_msg, vduse_msg_answered,
	     TP_PROTO(const char *name, u32 type, u32 id, int result),
	     TP_ARGS(name, type, id, result));

/* Given up by the operation that sent it. */
DEFINE_EVENT(vduse_msg, vduse_msg_timeout,
	     TP_PROTO(const char *name, u32 type, u32 id, int result),
	     TP_ARGS(name, type, id, result));

/* Answered after that. */
DEFINE_EVENT(vduse_msg, vduse_msg_late,
	     TP_PROTO(const char *name, u32 type, u32 id, int result),
	     TP_ARGS(name, type, id, result));

DECLARE_EVENT_CLASS(vduse_vq,
		    TP_PROTO(const char *name, u16 index),
		    TP_ARGS(name, index),
		    TP_STRUCT__entry(__string(name, name)
				     __field(u16, index)),
		    TP_fast_assign(__assign_str(name);
				   __entry->index = index;),
		    TP_printk("%s: vq %u", __get_str(name), __entry->index));

/* The driver kicked. */
DEFINE_EVENT(vduse_vq, vduse_kick,
	     TP_PROTO(const char *name, u16 index),
	     TP_ARGS(name, index));

/* The driver's callback is called. */
DEFINE_EVENT(vduse_vq, vduse_irq,
	     TP_PROTO(const char *name, u16 index),
	     TP_ARGS(name, index));

/*
 * Something attached, left, or the device status changed. The bits are those
 * of enum vduse_attach, whose names tools that decode the format do not know.
 */
TRACE_EVENT(vduse_state,
	    TP_PROTO(const char *name, unsigned long state, u8 status),
	    TP_ARGS(name, state, status),
	    TP_STRUCT__entry(__string(name, name)
			     __field(unsigned long, state)
			     __field(u8, status)),
	    TP_fast_assign(__assign_str(name);
			   __entry->state = state;
			   __entry->status = status;),
	    TP_printk("%s: %s status 0x%02x", __get_str(name),
		      __print_flags(__entry->state, "|",
				    { 0x01, "daemon" },
				    { 0x02, "vdpa" },
				    { 0x04, "adding" },
				    { 0x08, "removing" },
				    { 0x10, "failing" },
				    { 0x20, "dying" }),
		      __entry->status));

DECLARE_EVENT_CLASS(vduse_dma,
		    TP_PROTO(const char *name, u64 iova, size_t size,
			     enum dma_data_direction dir),
		    TP_ARGS(name, iova, size, dir),
		    TP_STRUCT__entry(__string(name, name)
				     __field(u64, iova)
				     __field(size_t, size)
				     __field(int, dir)),
		    TP_fast_assign(__assign_str(name);
				   __entry->iova = iova;
				   __entry->size = size;
				   __entry->dir = dir;),
		    TP_printk("%s: iova 0x%llx size %zu %s", __get_str(name),
			      __entry->iova, __entry->size,
			      __print_symbolic(__entry->dir,
					       { DMA_BIDIRECTIONAL, "bidirectional" },
					       { DMA_TO_DEVICE, "to device" },
					       { DMA_FROM_DEVICE, "from device" })));

/* The driver has mapped a buffer. */
DEFINE_EVENT(vduse_dma, vduse_map,
	     TP_PROTO(const char *name, u64 iova, size_t size,
		      enum dma_data_direction dir),
	     TP_ARGS(name, iova, size, dir));

/* The driver has unmapped a buffer. */
DEFINE_EVENT(vduse_dma, vduse_unmap,
	     TP_PROTO(const char *name, u64 iova, size_t size,
		      enum dma_data_direction dir),
	     TP_ARGS(name, iova, size, dir));

#endif /* _VDUSE_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
