#!/bin/sh
# Runs inside of the virtual machine, as root: lays out the file systems, then runs pytest.
# The file `plan` beside it sets variables, `paths` and `words` are one a line: what is taken from
# the first disk, and pytest's arguments.
# What comes out goes beside it too: report.xml, and `status` as the last thing of all.
set -eu
out=/run/milo-vm/out
. "$out/plan"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

if [ "$engine" = emulated ]; then
    modprobe -d "$modules" -a virtio_blk squashfs overlay
    disk=/dev/vd
    # The host's files once more, kept in memory: virtme's own mount asks the host each time.
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose milo.usr /usr
else
    disk=/dev/ubd
fi
if [ "$engine" = user ]; then
    mount -t ext4 "${disk}c" /tmp
    chmod 1777 /tmp
else
    mount -t tmpfs -o "size=$memory,mode=1777" tmpfs /tmp
fi

# In the order of the drives that the machine was given.
mkdir /run/milo-vm/base /run/milo-vm/tree /run/milo-vm/layer
mount -t squashfs -o ro "${disk}a" /run/milo-vm/base
mount -t squashfs -o ro "${disk}b" /run/milo-vm/tree
mount -t tmpfs tmpfs /run/milo-vm/layer
mkdir /run/milo-vm/layer/upper /run/milo-vm/layer/work
mkdir -p "$root"
mount -t overlay -o lowerdir=/run/milo-vm/tree,upperdir=/run/milo-vm/layer/upper,workdir=/run/milo-vm/layer/work overlay "$root"
while read -r path; do
    # The root itself has it: in a user namespace, crun before 1.9 shows no mounts below /usr.
    case "$engine$path" in user/usr/*) continue ;; esac
    if [ -d "/run/milo-vm/base$path" ]; then mkdir -p "$path"; else [ -e "$path" ] || touch "$path"; fi
    mount --bind "/run/milo-vm/base$path" "$path"
done <"$out/paths"
ip link set lo up
exec sh "$out/pytest.sh"
