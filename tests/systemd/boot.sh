#!/bin/sh
# A real systemd as PID 1 of namespaces of its own, over the real units of this repository: who sees it is
# only who enters. Nothing outside changes, and it ends with its parent.
#
#   boot.sh enter CGROUP …   as root, outside: joins its own cgroup, makes the namespaces, goes on as `inside`
#   boot.sh inside WORK      mounts what the units need over private /run and /var/lib, and becomes systemd
#
# WORK holds units/ (what systemd sees beside /etc/systemd/system) and log/. PYTHON, SITE, SOURCE and MORE are
# bound below /var/lib/under-test, since a service may not look into homes. /etc is written to a layer that goes.
set -eu
if [ "$1" = enter ]; then
    mkdir -p "$2"
    echo $$ > "$2/cgroup.procs"
    exec unshare --cgroup --mount --pid --ipc --uts --net --fork --kill-child=KILL sh "$0" inside "$3"
fi
work=$2
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "$work/run" "$work/var"
mount -t tmpfs tmpfs "$work/var"
for each in python:"$PYTHON" site:"$SITE" source:"$SOURCE" more:"$MORE"; do
    mkdir -p "$work/var/under-test/${each%%:*}"
    mount --bind "${each#*:}" "$work/var/under-test/${each%%:*}"
done
mkdir "$work/var/etc" "$work/var/etc-work"
mount -t overlay -o "lowerdir=/etc,upperdir=$work/var/etc,workdir=$work/var/etc-work" overlay /etc
units=$(cd "$work/units" && pwd)
mount --rbind "$work/var" /var/lib
mkdir -p /var/lib/under-test/units /var/lib/under-test/log
mount --bind "$units" /var/lib/under-test/units
mount --bind "$work/log" /var/lib/under-test/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system
if [ -e /var/lib/under-test/units/energyd.service ]; then # else it is installed later
    systemd-sysusers /var/lib/under-test/source/systemd/energyd.sysusers.conf
    systemd-tmpfiles --create /var/lib/under-test/source/systemd/energyd.tmpfiles.conf
    mkdir /etc/energyd
    cp /var/lib/under-test/source/systemd/energyd.toml /etc/energyd/
fi
exec env -i PATH="$PATH" container=energyd-test SYSTEMD_UNIT_PATH=/var/lib/under-test/units:/etc/systemd/system \
    SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=notice /lib/systemd/systemd --system --unit=energyd-test.target
