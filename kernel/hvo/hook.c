// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hooks by ftrace, and how they are taken away.
 *
 * Which calls are redirected. All but those that come from this module: the
 * callback sees the address that the function would return to. It must be
 * called for every call, because a folio that passes a hook unseen is freed
 * with read-only struct pages. So there is no FTRACE_OPS_FL_RECURSION: ftrace's
 * protection against recursion drops a call when an interrupt comes at the
 * wrong moment, and the callback calls nothing that could recurse. Where others
 * trace the same function, ftrace goes over the list of operations under a
 * protection of its own: there, a call is dropped if it is made by a callback
 * of that list in the same context, and none of them frees huge pages. The
 * module's own functions are built without ftrace entries, for the same reason.
 *
 * What the module calls must not reach another hooked function by a tail call:
 * the callback would see the module's address and let it pass. None of the
 * originals that the backends call does.
 *
 * Unloading. The callback counts a task before it redirects it. The task
 * leaves the count as the last thing that the replacement does. To take the
 * hook away:
 * 1. unregister_ftrace_function() lets no new call in and waits until no task
 *    is in the callback or in the ftrace trampoline any more, preempted ones
 *    included (RCU-tasks). Whoever was redirected is counted now, even if it
 *    has not executed the first instruction of the replacement.
 * 2. The count falls to zero: nobody sleeps in the replacement.
 * 3. Somebody may have been preempted between leaving the count and returning.
 *    Such a task does not sleep voluntarily on this way, therefore
 *    synchronize_rcu_tasks() waits for it. (Without preemption, that is a plain
 *    synchronize_rcu(), and the same is true of it.)
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "hook.h"
#include "hvo.h"
#include "symbols.h"

#define POLL_MS	10

static void notrace redirect(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			     struct ftrace_regs *fregs)
{
	struct hvo_hook *hook = container_of(ops, struct hvo_hook, ops);

	if (within_module(parent_ip, THIS_MODULE))
		return;
	atomic_inc(&hook->inside);
	ftrace_regs_set_instruction_pointer(fregs, (unsigned long)hook->replacement);
}

/* Only what ftrace_caller saves is needed, if it saves the arguments at all. */
static unsigned long hook_flags(void)
{
	unsigned long flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT;

	if (!IS_ENABLED(CONFIG_DYNAMIC_FTRACE_WITH_ARGS))
		flags |= FTRACE_OPS_FL_SAVE_REGS;
	return flags;
}

static int hook_register(struct hvo_hook *hook)
{
	unsigned long location;
	int ret;

	ret = hvo_symbol_function(hook->name, hook->any_signature, &hook->address);
	if (ret)
		return ret;
	location = hvo_ftrace_location(hook->address);
	if (!location) {
		pr_err("function %s has no ftrace entry\n", hook->name);
		return -ENOENT;
	}

	hook->ops.func = redirect;
	hook->ops.flags = hook_flags();
	ret = ftrace_set_filter_ip(&hook->ops, location, 0, 0);
	if (ret) {
		pr_err("ftrace cannot trace %s (error %d)\n", hook->name, ret);
		goto err_filter;
	}
	ret = register_ftrace_function(&hook->ops);
	if (ret) {
		pr_err("%s cannot be hooked: kernel.ftrace_enabled is 0, or a live patch replaces it (error %d)\n",
		       hook->name, ret);
		goto err_filter;
	}
	hook->registered = true;
	return 0;

err_filter:
	ftrace_free_filter(&hook->ops);
	return ret;
}

/*
 * ftrace refuses only after it has found its own state broken. Calls are still
 * redirected then, and a task that never ends rmmod is the lesser evil.
 */
static void unregister_or_hang(struct hvo_hook *hook)
{
	int ret = unregister_ftrace_function(&hook->ops);

	if (!ret)
		return;
	pr_err("ftrace does not give %s back (error %d): the module stays for ever\n", hook->name,
	       ret);
	for (;;)
		schedule_timeout_idle(MAX_SCHEDULE_TIMEOUT);
}

static void hook_unregister(struct hvo_hook *hook)
{
	if (!hook->registered)
		return;
	unregister_or_hang(hook);
	while (atomic_read(&hook->inside))
		msleep(POLL_MS);
	synchronize_rcu_tasks();
	ftrace_free_filter(&hook->ops);
	hook->registered = false;
}

int hvo_hooks_register(struct hvo_hook *const hooks[], unsigned int count)
{
	unsigned int i;
	int ret;

	for (i = 0; i < count; i++) {
		ret = hook_register(hooks[i]);
		if (ret) {
			hvo_hooks_unregister(hooks, i);
			return ret;
		}
	}
	return 0;
}

void hvo_hooks_unregister(struct hvo_hook *const hooks[], unsigned int count)
{
	while (count--)
		hook_unregister(hooks[count]);
}
