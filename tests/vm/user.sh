#!/bin/sh
# The first process of a kernel in user mode. Its root is the host's, read-only, with the exchange at
# /mnt: puts a layer in memory over it, mounts what a system has, and runs `guest.sh`.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
. /mnt/plan

mount -t proc proc /proc
[ -z "$modules" ] || modprobe -d "$modules" -a overlay squashfs
mount -t tmpfs -o size=75%,mode=755 tmpfs /run
mkdir /run/upper /run/work /run/new
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/new
mount -t hostfs -o /mnt none /run/new/mnt
umount /proc
cd /run/new
pivot_root . opt
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null || [ -c /dev/null ]
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ln -sfn /proc/self/fd /dev/fd
ln -sfn fd/0 /dev/stdin
ln -sfn fd/1 /dev/stdout
ln -sfn fd/2 /dev/stderr
umount -l /opt
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/milo-vm/out
mount --move /mnt /run/milo-vm/out
if [ -n "$modules" ]; then
    mkdir -p /lib/modules
    mount --bind "$modules/lib/modules" /lib/modules
fi
sh /run/milo-vm/out/guest.sh >/run/milo-vm/out/console.log 2>&1 || true
sync
busybox poweroff -f
