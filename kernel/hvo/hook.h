/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Replacing a function of the kernel while the module is loaded.
 *
 * A hook is an ftrace operation with IPMODIFY that sends every call of the
 * function to a replacement of the same signature. It is permanent, so that
 * kernel.ftrace_enabled=0 is refused instead of dropping it. Calls that come
 * from the module itself pass: that is how a replacement reaches the original.
 * A replacement may not call the original as a tail call; since it ends with
 * hvo_hook_leave(), it does not.
 *
 * The operation counts who is inside a replacement. Unregistering waits until
 * nobody is, and then for the last instructions after the count went down.
 */
#ifndef HVO_HOOK_H
#define HVO_HOOK_H

#include <linux/atomic.h>
#include <linux/ftrace.h>

/**
 * struct hvo_hook - one replaced function
 * @name: the function's name in the kernel's source
 * @replacement: what is called instead
 * @any_signature: the replacement finds its arguments itself, so the compiler
 *	may have changed the function's parameters
 * @address: of the original, once registered
 * @inside: tasks that entered the replacement and have not left it
 * @ops: private to hook.c
 * @registered: private to hook.c
 */
struct hvo_hook {
	const char *name;
	void *replacement;
	bool any_signature;
	unsigned long address;
	atomic_t inside;
	struct ftrace_ops ops;
	bool registered;
};

/**
 * hvo_hooks_register() - from now on the replacements are called
 * @hooks: each with @name, @replacement and @any_signature set, everything else
 *	zero; registered in this order
 * @count: how many
 *
 * Context: module init, after hvo_symbols_resolve(); sleeps.
 * Return: 0; or, and none is registered, -ENOENT (also if ftrace does not know
 * a function), -EEXIST for a name; -EBUSY if ftrace is switched off or somebody
 * else (a live patch) has replaced a function, with a message.
 */
int hvo_hooks_register(struct hvo_hook *const hooks[], unsigned int count);

/**
 * hvo_hooks_unregister() - give the functions back
 * @hooks: registered or not
 * @count: how many
 *
 * In the reverse order. Returns when no task is in a replacement any more;
 * sleeps as long as that takes.
 */
void hvo_hooks_unregister(struct hvo_hook *const hooks[], unsigned int count);

/**
 * hvo_hook_leave() - the last thing that a replacement does
 * @hook: its hook
 *
 * Context: any.
 */
static inline void hvo_hook_leave(struct hvo_hook *hook)
{
	atomic_dec(&hook->inside);
}

#endif /* HVO_HOOK_H */
