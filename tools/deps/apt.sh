# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# shellcheck disable=SC2154 # $build: common.sh
#
# A private apt for one architecture: its own lists, cache and (empty) package
# database under build/apt/ARCH, so that packages of a foreign architecture can
# be looked up and downloaded while the system's apt stays as it is. Nothing is
# installed through it: callers unpack what it downloads.
#
# Its sources are those of the system, as far as they come from Debian
# bookworm: the mirror that the machine's owner chose is the mirror we use.
# Sourced after common.sh; needs no lock of the caller.

apt_suites='^bookworm(-updates|-security|-backports)?$'
apt_max_age=1440 # minutes until the lists are looked at again

# apt_sources: prints the system's Debian bookworm sources, one "SITE CODENAME
# COMPONENT" a line. They are known to apt once lists were downloaded.
apt_sources()
{
	# shellcheck disable=SC2016 # apt-get fills in the fields
	apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' \
		'Created-By: Packages' 'Origin: Debian' |
		while read -r site release component; do
			[[ $release =~ $apt_suites ]] || continue
			printf '%s %s %s\n' "$site" "$release" "$component"
		done | sort -u
}

# apt_configure ARCH DIR: writes apt.conf and sources.list into DIR. The
# system's apt.conf.d is left out (its hooks and extra indexes are not for us),
# except for how to reach the network.
apt_configure()
{
	local arch=$1 dir=$2 sources

	mkdir -p "$dir"/{lists,archives}/partial "$dir/parts"
	: >>"$dir/status"
	apt-config dump | sed -nE '/^Acquire::(http|https|ftp|Retries|ForceIPv[46])/p' \
		>"$dir/parts/network"
	cat >"$dir/apt.conf" <<-EOF
		Dir::Etc::main "/dev/null";
		Dir::Etc::parts "$dir/parts";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State "$dir";
		Dir::State::status "$dir/status";
		Dir::State::extended_states "$dir/extended_states";
		Dir::Cache "$dir";
		Dir::Cache::archives "$dir/archives";
		Dir::Log "$dir";
		APT::Architecture "$arch";
		APT::Architectures { "$arch"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "";
		Acquire::Languages "none";
		Acquire::Retries "3";
	EOF

	sources=$(apt_sources)
	if [ -z "$sources" ]; then
		say "apt knows no Debian bookworm sources yet: apt-get update"
		as_root apt-get update >&2
		sources=$(apt_sources)
	fi
	[ -n "$sources" ] || die "the system's apt has no source of Debian 12 (bookworm)"
	while read -r line; do
		printf 'deb %s\ndeb-src %s\n' "$line" "$line"
	done <<<"$sources" >"$dir/sources.list"
}

# apt_for ARCH: the private apt is usable afterwards, with lists not older than
# a day if the network allows.
apt_for()
{
	local arch=$1 dir=$build/apt/$1

	(
		lock "apt-$arch"
		# The configuration has absolute paths: a checkout that was moved
		# needs a new one.
		if [ -n "$(find "$dir/updated" -mmin -$apt_max_age 2>/dev/null)" ] &&
			[ "$(<"$dir/updated")" = "$dir" ]; then
			exit 0
		fi
		step "package lists of Debian for $arch"
		apt_configure "$arch" "$dir"
		if APT_CONFIG=$dir/apt.conf apt-get -q update >"$dir/update.log" 2>&1; then
			echo "$dir" >"$dir/updated"
		elif [ -e "$dir/updated" ]; then
			say "could not renew the package lists (see $dir/update.log); going on with the old ones"
		else
			cat "$dir/update.log" >&2
			die "could not download the package lists for $arch"
		fi
	)
}

# apt_run ARCH COMMAND...: an apt command under the private configuration.
apt_run()
{
	local arch=$1
	shift
	APT_CONFIG=$build/apt/$arch/apt.conf "$@"
}

# apt_names ARCH PREFIX: known package names that begin so.
apt_names() { apt_run "$1" apt-cache pkgnames "$2"; }

# apt_download ARCH PACKAGE...: downloads exactly these packages (newest
# versions) and prints their files.
apt_download()
{
	local arch=$1
	shift
	(
		lock "apt-download-$arch"
		cd "$build/apt/$arch/archives" || exit 1
		apt_run "$arch" apt-get -q download "$@" >&2 9>&- || exit 1
		for package in "$@"; do
			apt_run "$arch" apt-cache show --no-all-versions "$package" |
				awk -v dir="$PWD" '
				/^Package:/ { p = $2 } /^Version:/ { v = $2 }
				/^Architecture:/ { a = $2 }
				END { gsub(/:/, "%3a", v); print dir "/" p "_" v "_" a ".deb" }'
		done
	)
}

# apt_download_closure ARCH PACKAGE...: downloads the packages and all they
# depend on, from nothing (no package counts as installed; name "?essential" to
# have the base system), and prints their files.
apt_download_closure()
{
	local arch=$1
	shift
	(
		lock "apt-download-$arch"
		dir=$build/apt/$arch/archives
		apt_run "$arch" apt-get -q -y --download-only install "$@" \
			>"$build/apt/$arch/download.log" 2>&1 9>&- || {
			cat "$build/apt/$arch/download.log" >&2
			exit 1
		}
		# Inst NAME (VERSION ORIGIN [ARCH])
		apt_run "$arch" apt-get -s install "$@" |
			sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*\[\([^]]*\)\]).*/\1 \2 \3/p' |
			while read -r name version a; do
				printf '%s/%s_%s_%s.deb\n' "$dir" "$name" "${version//:/%3a}" "$a"
			done
	)
}

# unpack ROOT DEB...: extracts packages without running any of their scripts.
# ROOT may have /bin, /lib and so on as links into /usr.
unpack()
{
	local root=$1 deb
	shift
	for deb in "$@"; do
		dpkg-deb --fsys-tarfile "$deb" |
			tar -x -C "$root" --keep-directory-symlink --no-same-permissions -p ||
			die "cannot unpack $deb"
	done
}
