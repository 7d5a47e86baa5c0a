/* SPDX-License-Identifier: GPL-2.0-only */
/* Tracepoints; they show under events/hvo/ of tracefs. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM hvo

#if !defined(_HVO_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _HVO_TRACE_H

#include <linux/mm.h>
#include <linux/tracepoint.h>

#include "stats.h"

/* The struct pages of a folio were given back. */
TRACE_EVENT(hvo_convert,
	    TP_PROTO(struct folio *folio, bool in_use),
	    TP_ARGS(folio, in_use),
	    TP_STRUCT__entry(__field(unsigned long, pfn)
			     __field(unsigned int, order)
			     __field(int, nid)
			     __field(bool, in_use)),
	    TP_fast_assign(__entry->pfn = folio_pfn(folio);
			   __entry->order = folio_order(folio);
			   __entry->nid = folio_nid(folio);
			   __entry->in_use = in_use;),
	    TP_printk("pfn=0x%lx order=%u nid=%d in_use=%d", __entry->pfn,
		      __entry->order, __entry->nid, __entry->in_use));

/* A folio has all its struct pages again, or, with an error, still not. */
TRACE_EVENT(hvo_restore,
	    TP_PROTO(struct folio *folio, int result),
	    TP_ARGS(folio, result),
	    TP_STRUCT__entry(__field(unsigned long, pfn)
			     __field(unsigned int, order)
			     __field(int, nid)
			     __field(int, result)),
	    TP_fast_assign(__entry->pfn = folio_pfn(folio);
			   __entry->order = folio_order(folio);
			   __entry->nid = folio_nid(folio);
			   __entry->result = result;),
	    TP_printk("pfn=0x%lx order=%u nid=%d result=%d", __entry->pfn,
		      __entry->order, __entry->nid, __entry->result));

/*
 * A folio was left alone. The reason is recorded as text: tools that decode the
 * format do not know the enumeration, and filters can name it.
 */
TRACE_EVENT(hvo_skip,
	    TP_PROTO(struct folio *folio, enum hvo_stat reason),
	    TP_ARGS(folio, reason),
	    TP_STRUCT__entry(__field(unsigned long, pfn)
			     __field(unsigned int, order)
			     __field(int, nid)
			     __string(reason, hvo_stat_names[reason])),
	    TP_fast_assign(__entry->pfn = folio_pfn(folio);
			   __entry->order = folio_order(folio);
			   __entry->nid = folio_nid(folio);
			   __assign_str(reason);),
	    TP_printk("pfn=0x%lx order=%u nid=%d reason=%s", __entry->pfn,
		      __entry->order, __entry->nid, __get_str(reason)));

/* Block mappings of the vmemmap became tables, all in one stop. */
TRACE_EVENT(hvo_split,
	    TP_PROTO(unsigned long address, unsigned int count, u64 ns),
	    TP_ARGS(address, count, ns),
	    TP_STRUCT__entry(__field(unsigned long, address)
			     __field(unsigned int, count)
			     __field(u64, ns)),
	    TP_fast_assign(__entry->address = address;
			   __entry->count = count;
			   __entry->ns = ns;),
	    TP_printk("address=0x%lx count=%u ns=%llu", __entry->address,
		      __entry->count, __entry->ns));

#endif /* _HVO_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
