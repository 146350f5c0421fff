# Run by SecurityProbe with /bin/sh inside of a task: tries what needs a program of the host's.
# Prints `shell.NAME done`, `refused`, or `no program` for each. Nothing here outlives its
# process, and it is never run where the task is the host's root.
attempt() {
    name=$1
    shift
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "shell.$name no program"
    elif "$@" >/dev/null 2>&1 </dev/null; then
        echo "shell.$name done"
    else
        echo "shell.$name refused"
    fi
}

attempt mount mount -t tmpfs probe /tmp
attempt remount mount -o remount,bind,rw /usr
attempt umount umount -l /proc/kcore
attempt user-namespace unshare --user true
attempt mount-namespace unshare --mount true
attempt network-namespace unshare --net true
attempt device-node mknod /tmp/probe-node b 8 0
rm -f /tmp/probe-node
attempt kernel-log dmesg
attempt chroot chroot / true
attempt become-root setpriv --reuid 0 true
attempt own-groups setpriv --clear-groups true
attempt enter-init nsenter -t 1 -m true
attempt higher-priority nice -n -5 sh -c '[ "$(cut -d" " -f19 /proc/self/stat)" -lt 0 ]'
attempt lower-oom-score sh -c 'echo -999 >/proc/self/oom_score_adj'
attempt hostname sh -c 'echo probe >/proc/sys/kernel/hostname'
attempt sysctl sh -c 'echo 1 >/proc/sys/vm/drop_caches'
attempt raw-socket perl -MSocket -e 'socket(my $s, AF_INET, SOCK_RAW, 1) or exit 1'
attempt packet-socket perl -e 'socket(my $s, 17, 3, 0) or exit 1'
attempt vsock perl -e 'socket(my $s, 40, 1, 0) or exit 1'
attempt alg-socket perl -e 'socket(my $s, 38, 5, 0) or exit 1'
attempt kernel-keyring perl -e 'exit(syscall(250, 0, -4, 1) == -1 ? 1 : 0)'
attempt io-uring perl -e 'exit(syscall(425, 1, my $p = "\0" x 120) == -1 ? 1 : 0)'
attempt bpf perl -e 'exit(syscall(321, 0, my $p = pack("LLLL", 2, 4, 4, 1), 16) == -1 ? 1 : 0)'
attempt trace-init perl -e 'exit(syscall(101, 0x4206, 1, 0, 0) == -1 ? 1 : 0)'
attempt run-own-program sh -c 'cp /bin/sh /local/probe-exec && /local/probe-exec -c :; r=$?; rm -f /local/probe-exec; exit $r'
