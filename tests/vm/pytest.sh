#!/bin/sh
# Runs pytest inside of a machine whose file systems stand: the end of `guest.sh` and of `init.sh`.
set -eu
out=$(dirname "$0")
. "$out/plan"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf 'vm: %s (%s s after boot)\n' "$*" "$(cut -d' ' -f1 /proc/uptime)"; }

# virtme-ng's init mounts it while this runs already.
tries=0
until [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { say "no cgroup v2 here"; exit 1; }
    sleep 1
done
say "controllers on v2: $(cat /sys/fs/cgroup/cgroup.controllers)"

cd "$root"
set --
while IFS= read -r word; do set -- "$@" "$word"; done <"$out/words"
say "starting pytest"
status=0
# Looking for plugins by itself takes pytest 15 s here: all metadata of all packages is read.
# An interrupted pytest still writes its report; one that is killed does not.
env -i PATH="$PATH" HOME=/root TMPDIR=/tmp LANG=C.UTF-8 TERM=dumb PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 MILO_TIME_SCALE="$scale" MILO_IN_VM=1 \
    MILO_VM_OUTCOMES="$out/outcomes" NOMAD_BIN="$nomad" NOMAD_BINS="$nomads" MILO_JARS="$jars" \
    "$python" -S "$root/tests/vm/reaper.py" \
    timeout --foreground -s INT -k 90 "$limit_s" "$python" -m pytest "$@" \
    -p tests.vm.live -p pytest_trio.plugin -p pytest_timeout -p pytest_bdd.plugin -p no:cacheprovider --junitxml=/tmp/report.xml || status=$?
say "pytest ended with $status"
[ ! -f /tmp/report.xml ] || cp /tmp/report.xml "$out/report.xml"
[ ! -d "$root/.nox/agents" ] || cp -r "$root/.nox/agents" "$out/"
echo "$status" >"$out/status.new"
mv "$out/status.new" "$out/status"
sync
