#!/bin/sh
# Runs inside of the virtual machine, as root: lays out the file systems, then runs pytest.
# The file `plan` beside it sets variables, `paths` and `words` are one a line: what is taken from
# the first disk, and pytest's arguments.
# What comes out goes beside it too: report.xml, and `status` as the last thing of all.
set -eu
out=/run/milo-vm/out
. "$out/plan"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf 'vm: %s (%s s after boot)\n' "$*" "$(cut -d' ' -f1 /proc/uptime)"; }

modprobe -d "$modules" -a virtio_blk squashfs overlay
mount -t tmpfs -o "size=$memory,mode=1777" tmpfs /tmp
# The host's files once more, kept in memory: virtme's own mount asks the host each time.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose milo.usr /usr

# In the order of the drives that qemu was given.
mkdir /run/milo-vm/base /run/milo-vm/tree /run/milo-vm/layer
mount -t squashfs -o ro /dev/vda /run/milo-vm/base
mount -t squashfs -o ro /dev/vdb /run/milo-vm/tree
mount -t tmpfs tmpfs /run/milo-vm/layer
mkdir /run/milo-vm/layer/upper /run/milo-vm/layer/work
mkdir -p "$root"
mount -t overlay -o lowerdir=/run/milo-vm/tree,upperdir=/run/milo-vm/layer/upper,workdir=/run/milo-vm/layer/work overlay "$root"
while read -r path; do
    if [ -d "/run/milo-vm/base$path" ]; then mkdir -p "$path"; else [ -e "$path" ] || touch "$path"; fi
    mount --bind "/run/milo-vm/base$path" "$path"
done <"$out/paths"
ip link set lo up
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || { say "no cgroup v2 here"; exit 1; }
say "controllers on v2: $(cat /sys/fs/cgroup/cgroup.controllers)"

cd "$root"
set --
while IFS= read -r word; do set -- "$@" "$word"; done <"$out/words"
say "starting pytest"
status=0
# Looking for plugins by itself takes pytest 15 s here: all metadata of all packages is read.
# An interrupted pytest still writes its report; one that is killed does not.
env -i PATH="$PATH" HOME=/root TMPDIR=/tmp LANG=C.UTF-8 TERM=dumb PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 MILO_TIME_SCALE="$scale" MILO_IN_VM=1 NOMAD_BIN="$nomad" MILO_JARS="$jars" \
    "$python" -S "$root/tests/vm/reaper.py" \
    timeout --foreground -s INT -k 90 "$limit_s" "$python" -m pytest "$@" \
    -p tests.vm.live -p pytest_trio.plugin -p pytest_timeout -p pytest_bdd.plugin -p no:cacheprovider --junitxml=/tmp/report.xml || status=$?
say "pytest ended with $status"
[ ! -f /tmp/report.xml ] || cp /tmp/report.xml "$out/report.xml"
[ ! -d "$root/.nox/agents" ] || cp -r "$root/.nox/agents" "$out/"
echo "$status" >"$out/status.new"
mv "$out/status.new" "$out/status"
sync
