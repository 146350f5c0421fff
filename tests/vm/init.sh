#!/bin/busybox sh
# The first process of the machine with systemd, in its initial file system: lays out the real one
# as the plan says, and gives way to systemd, which starts `pytest.sh` as a service.
set -eu
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "$module"; done </modules

mkdir /system /base /tree /layer /new
# In the order of the drives that qemu was given.
mount -t squashfs -o ro /dev/vda /base
mount -t squashfs -o ro /dev/vdb /tree
mount -t squashfs -o ro /dev/vdc /system
mount -t tmpfs -o size=75%,mode=755 tmpfs /layer
mkdir /layer/system /layer/system-work /layer/tree /layer/tree-work
mount -t overlay -o lowerdir=/system,upperdir=/layer/system,workdir=/layer/system-work overlay /new
out=/new/milo-vm/out
mkdir -p "$out"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 milo.out "$out"
. "$out/plan"
mkdir -p "/new$root"
mount -t overlay -o lowerdir=/tree,upperdir=/layer/tree,workdir=/layer/tree-work overlay "/new$root"
while read -r path; do
    if [ -d "/base$path" ]; then
        mkdir -p "/new$path"
    else
        mkdir -p "/new$(dirname "$path")"
        [ -e "/new$path" ] || touch "/new$path"
    fi
    mount -o bind "/base$path" "/new$path"
done <"$out/paths"

units=/new/etc/systemd/system
cat >"$units/milo-tests.service" <<'UNIT'
[Unit]
Description=Milo's tests
After=multi-user.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh -c "exec sh /milo-vm/out/pytest.sh >>/milo-vm/out/console.log 2>&1"
ExecStopPost=/bin/systemctl poweroff --force --force
UNIT
mkdir -p "$units/milo.target.wants"
ln -s ../milo-tests.service "$units/milo.target.wants/"
cat >"$units/milo.target" <<'UNIT'
[Unit]
Requires=multi-user.target
After=multi-user.target
AllowIsolate=yes
UNIT
for place in /proc /sys /dev; do mount --move "$place" "/new$place"; done
exec switch_root /new /sbin/init
