// SPDX-License-Identifier: MIT
/*
 * Giving up root, in steps. The steps are in privileges.h.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "cmd/privileges.h"

static const cap_value_t attach_caps[] = { CAP_NET_ADMIN, CAP_DAC_OVERRIDE };
static const cap_value_t settled_caps[] = { CAP_NET_ADMIN };

/* Written once, before other threads start. */
static bool dropped;

static int set_caps(const cap_value_t *permitted, unsigned int npermitted, bool effective)
{
	cap_t caps = cap_init();
	int ret = -1;

	if (!caps)
		return -ENOMEM;
	if ((!npermitted ||
	     !cap_set_flag(caps, CAP_PERMITTED, (int)npermitted, permitted, CAP_SET)) &&
	    (!npermitted || !effective ||
	     !cap_set_flag(caps, CAP_EFFECTIVE, (int)npermitted, permitted, CAP_SET)))
		ret = cap_set_proc(caps);
	ret = ret ? -errno : 0;
	cap_free(caps);
	return ret;
}

int privileges_find(const char *user, struct account *ret_account, struct error *e)
{
	struct passwd *pw;

	errno = 0;
	pw = getpwnam(user);
	if (!pw)
		return err_set(e, ENOENT, "user: no account \"%s\"", user);
	*ret_account = (struct account) {
		.name = user,
		.uid = pw->pw_uid,
		.gid = pw->pw_gid,
	};
	return 0;
}

int privileges_find_group(const char *group, gid_t *ret_gid, struct error *e)
{
	const struct group *gr = getgrnam(group);

	if (!gr)
		return err_set(e, ENOENT, "control-group: no group \"%s\"", group);
	*ret_gid = gr->gr_gid;
	return 0;
}

int privileges_drop(const struct account *account, struct error *e)
{
	int err;

	if (geteuid())
		return err_set(e, EPERM, "user: only root can become \"%s\"", account->name);
	if (!account->uid)
		return 0;

	if (prctl(PR_SET_KEEPCAPS, 1) || initgroups(account->name, account->gid) ||
	    setresgid(account->gid, account->gid, account->gid) ||
	    setresuid(account->uid, account->uid, account->uid))
		return err_set_errno(e, errno, "become user \"%s\"", account->name);
	err = set_caps(attach_caps, ARRAY_SIZE(attach_caps), false);
	if (err)
		return err_set_errno(e, -err, "keep capabilities as user \"%s\"", account->name);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_set_errno(e, errno, "renounce new privileges");
	dropped = true;
	return 0;
}

static void change_caps(bool effective)
{
	cap_t caps;
	cap_flag_value_t has_override = CAP_CLEAR;
	int err;

	if (!dropped)
		return;
	/* Settled threads have less to raise. */
	caps = cap_get_proc();
	if (caps) {
		cap_get_flag(caps, CAP_DAC_OVERRIDE, CAP_PERMITTED, &has_override);
		cap_free(caps);
	}
	err = set_caps(attach_caps, has_override == CAP_SET ? 2 : 1, effective);
	if (err)
		log_warning("change capabilities: %s", strerror(-err));
}

void privileges_raise(void)
{
	change_caps(true);
}

void privileges_lower(void)
{
	change_caps(false);
}

void privileges_settle(void)
{
	int err = dropped ? set_caps(settled_caps, ARRAY_SIZE(settled_caps), false) : 0;

	if (err)
		log_warning("give up capabilities: %s", strerror(-err));
}

/* Ambient capabilities are those that a program without a file capability keeps. */
int privileges_lend(struct error *e)
{
	cap_t caps = dropped ? cap_get_proc() : NULL;
	int err = 0;

	if (!dropped)
		return 0;
	if (!caps ||
	    cap_set_flag(caps, CAP_INHERITABLE, ARRAY_SIZE(settled_caps), settled_caps, CAP_SET) ||
	    cap_set_proc(caps) ||
	    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0))
		err = err_set_errno(e, errno, "pass CAP_NET_ADMIN on");
	if (caps)
		cap_free(caps);
	return err;
}

/* What is not inheritable any more is not ambient either. */
void privileges_take_back(void)
{
	privileges_settle();
}

static bool has_net_admin(void)
{
	cap_flag_value_t has = CAP_CLEAR;
	cap_t caps = cap_get_proc();

	if (caps) {
		cap_get_flag(caps, CAP_NET_ADMIN, CAP_PERMITTED, &has);
		cap_free(caps);
	}
	return has == CAP_SET;
}

int privileges_inherit(const struct account *account, struct error *e)
{
	if (geteuid() != account->uid)
		return err_set(e, EPERM, "user: the daemon runs as user %u and cannot become \"%s\" in an upgrade",
			       (unsigned int)geteuid(), account->name);
	if (!account->uid)
		return 0;
	if (!has_net_admin())
		return err_set(e, EPERM, "user: CAP_NET_ADMIN was not passed on");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_set_errno(e, errno, "renounce new privileges");
	dropped = true;
	privileges_settle();
	return 0;
}

void privileges_forget(void)
{
	int err = dropped ? set_caps(NULL, 0, false) : 0;

	if (err)
		log_warning("give up capabilities: %s", strerror(-err));
}
