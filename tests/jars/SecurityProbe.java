import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.Socket;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * Tells what a task sees and may do: one line a fact, a key, a space and a value.
 *
 * <p>What the test knows of the host comes in the environment, as PROBE_*. No secret's content is
 * ever printed. With PROBE_PASSIVE nothing is made and no device opened: the kernel is only asked,
 * since that task may be the host's root.
 */
public final class SecurityProbe {
    private static final Map<String, String> FACTS = new TreeMap<>();
    private static final Map<String, String> ENV = System.getenv();
    private static final boolean PASSIVE = ENV.containsKey("PROBE_PASSIVE");

    public static void main(String[] args) throws Exception {
        boolean once = args.length > 0;
        if (!once) {
            until(Path.of(ENV.getOrDefault("NOMAD_TASK_DIR", "/local"), "go"));
        }
        ids();
        namespaces();
        mounts();
        secrets();
        places();
        devices();
        kernelFiles();
        limits();
        cgroup();
        network();
        environment();
        shell();
        System.out.println("probe begin");
        FACTS.forEach((key, value) -> System.out.println(key + " " + value));
        System.out.println("probe end");
        while (!once && ENV.containsKey("PROBE_STAY")) {
            Thread.sleep(1000);
        }
    }

    private static void until(Path path) throws InterruptedException {
        while (!Files.exists(path)) {
            Thread.sleep(20);
        }
    }

    private static void fact(String key, String value) {
        FACTS.put(key, value.strip().isEmpty() ? "none" : value.strip());
    }

    // ---- who it is ---------------------------------------------------------------------

    private static void ids() {
        Map<String, String> status = new TreeMap<>();
        for (String line : lines("/proc/self/status")) {
            String[] parts = line.split(":\\s*", 2);
            status.put(parts[0], parts.length > 1 ? parts[1].strip() : "");
        }
        fact("id.uid", one(status.get("Uid")));
        fact("id.gid", one(status.get("Gid")));
        fact("id.groups", status.get("Groups"));
        for (String kind : new String[] {"Eff", "Prm", "Inh", "Bnd", "Amb"}) {
            fact("cap." + kind.toLowerCase(), status.get("Cap" + kind));
        }
        fact("no_new_privileges", status.get("NoNewPrivs"));
        fact("seccomp", status.get("Seccomp"));
        fact("oom_score_adj", String.join("", lines("/proc/self/oom_score_adj")));
        String map = String.join(";", lines("/proc/self/uid_map")).strip().replaceAll(" +", " ");
        fact("namespace.user.map", map.replaceFirst("^0 [1-9]\\d* ", "0 elsewhere "));
    }

    /** Of four ids that are the same: that one. */
    private static String one(String ids) {
        return String.join(" ", new TreeSet<>(Arrays.asList(ids.split("\\s+"))));
    }

    private static String link(String kind) {
        try {
            return Files.readSymbolicLink(Path.of("/proc/self/ns/" + kind)).toString();
        } catch (IOException problem) {
            return "unknown";
        }
    }

    private static boolean isHosts(String kind) {
        return (" " + ENV.get("PROBE_NAMESPACES") + " ").contains(" " + link(kind) + " ");
    }

    private static void namespaces() {
        for (String kind : "cgroup ipc mnt net pid time user uts".split(" ")) {
            if (!link(kind).equals("unknown")) {
                fact("namespace." + kind, isHosts(kind) ? "host" : "own");
            }
        }
        int seen = 0;
        String outside = ENV.getOrDefault("PROBE_PROCESS", "0 0");
        for (String pid : names("/proc")) {
            if (pid.matches("\\d+")) {
                String[] stat = String.join(" ", lines("/proc/" + pid + "/stat")).split("\\) ");
                String[] fields = stat[stat.length - 1].split(" ");
                if (fields.length > 19 && outside.equals(pid + " " + fields[19])) {
                    seen++;
                }
            }
        }
        fact("processes", seen > 0 ? "the host's" : "its own");
    }

    // ---- mounts ------------------------------------------------------------------------

    private static final Set<String> SYSTEM =
            Set.of("/", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/sys");
    private static final Set<String> TASKS = Set.of("/alloc", "/local", "/secrets", "/tmp");

    private static void mounts() {
        if (isHosts("mnt")) {
            fact("mount", "the host's table");
            return;
        }
        Map<String, Set<String>> found = new TreeMap<>();
        for (String line : lines("/proc/self/mountinfo")) {
            String[] halves = line.split(" - ", 2);
            String[] before = halves[0].split(" ");
            String type = halves[1].split(" ")[0];
            String place = before[4];
            Set<String> options = new TreeSet<>(Arrays.asList(before[5].split(",")));
            if (place.startsWith("/sys/fs/cgroup")) {
                add(found, "/sys/fs/cgroup", type(type.replace("tmpfs", "cgroup"), options));
            } else if (place.startsWith("/proc/") || place.startsWith("/sys/")) {
                continue; // what hides something is told by the thing hidden
            } else if (SYSTEM.contains(place)) {
                add(found, place, place.equals("/") ? flags(options) : type(type, options));
            } else if (TASKS.contains(place)) {
                add(found, place, flags(options));
            } else if (place.startsWith("/dev/")) {
                add(found, "/dev/*", "a node");
            } else {
                add(found, place.replaceFirst("^(/[^/]+).*", "$1") + ".*", flags(options));
            }
        }
        found.forEach((place, options) -> fact("mount." + place, String.join("; ", options)));
    }

    private static void add(Map<String, Set<String>> found, String place, String what) {
        found.computeIfAbsent(place, key -> new TreeSet<>()).add(what);
    }

    private static String flags(Set<String> options) {
        List<String> result = new ArrayList<>();
        for (String option : new String[] {"ro", "rw", "nosuid", "nodev"}) {
            if (options.contains(option)) {
                result.add(option);
            }
        }
        return String.join(",", result);
    }

    private static String type(String type, Set<String> options) {
        return type + " " + flags(options) + (options.contains("noexec") ? ",noexec" : "");
    }

    // ---- secrets -----------------------------------------------------------------------

    private static void secrets() {
        for (String pair : ENV.getOrDefault("PROBE_SECRETS", "").split(";")) {
            String[] words = pair.split("=", 2);
            if (words.length == 2) {
                fact("secret." + words[0], look(Path.of(words[1])));
            }
        }
        byte[] canary = (ENV.get("PROBE_CANARY") + "=").getBytes(StandardCharsets.UTF_8);
        String environ = "hidden";
        for (String pid : names("/proc")) {
            if (pid.matches("\\d+")) {
                try {
                    String text =
                            new String(
                                    Files.readAllBytes(Path.of("/proc", pid, "environ")),
                                    StandardCharsets.ISO_8859_1);
                    if (!text.contains("PROBE_CANARY=")
                            && text.contains(new String(canary, StandardCharsets.ISO_8859_1))) {
                        environ = "READ";
                    }
                } catch (IOException expected) {
                    // not ours to read, or gone
                }
            }
        }
        fact("secret.agent-environment", environ);
    }

    /** Tells whether something can be read: never what is in it. */
    private static String look(Path path) {
        try {
            if (Files.isDirectory(path)) {
                try (DirectoryStream<Path> list = Files.newDirectoryStream(path)) {
                    return list.iterator().hasNext() ? "READ" : "empty";
                }
            }
            try (InputStream in = Files.newInputStream(path)) {
                return in.read() < 0 ? "empty" : "READ";
            }
        } catch (NoSuchFileException | NotDirectoryException missing) {
            return "absent";
        } catch (FileSystemException refused) {
            String reason = "" + refused.getReason();
            return reason.contains("Not a directory") || reason.contains("No such device")
                    ? "absent"
                    : "denied";
        } catch (IOException refused) {
            return "denied";
        }
    }

    // ---- where it can write ------------------------------------------------------------

    private static void places() {
        String home = System.getProperty("java.home");
        for (String place :
                ("/ /boot /dev /dev/shm /dev/mqueue /dev/pts /etc /etc/ssl/certs /home /media /mnt /opt"
                                + " /proc /proc/sys/kernel /root /run /srv /sys /sys/fs/cgroup"
                                + " /usr /usr/bin /usr/lib /usr/local /usr/share /var /var/tmp /var/lib")
                        .split(" ")) {
            fact("write." + place, write(Path.of(place)));
        }
        fact("write.the-jdk", write(Path.of(home, "lib")));
        fact("write.own-tmp", write(Path.of("/tmp")));
        fact("write.own-local", write(Path.of(ENV.getOrDefault("NOMAD_TASK_DIR", "/local"))));
        fact("write.own-secrets", write(Path.of(ENV.getOrDefault("NOMAD_SECRETS_DIR", "/secrets"))));
        fact("write.own-alloc", write(Path.of(ENV.getOrDefault("NOMAD_ALLOC_DIR", "/alloc"))));
        fact("write.own-task", write(Path.of("/task")));
        fact("write.file:/etc/passwd", open("/etc/passwd"));
        fact("write.file:/etc/resolv.conf", open("/etc/resolv.conf"));
        if (isHosts("mnt")) {
            fact("write.elsewhere", "not looked for");
            fact("root", "the host's");
            return;
        }
        fact("root", String.join(" ", names("/")).replaceAll("\\b(lib32|libx32|lib64) ", ""));
        Set<String> more = new TreeSet<>();
        Set<String> own = Set.of("proc", "sys", "dev", "alloc", "local", "secrets", "tmp", "task");
        for (String top : names("/")) {
            if (!own.contains(top)) {
                writable(new File("/" + top), 3, more);
            }
        }
        for (String inner : names("/task")) {
            if (!Set.of("alloc", "local", "secrets", "tmp").contains(inner)) {
                writable(new File("/task/" + inner), 3, more);
            }
        }
        fact("write.elsewhere", String.join(" ", more));
    }

    private static void writable(File at, int depth, Set<String> found) {
        if (Files.isSymbolicLink(at.toPath())) {
            return;
        }
        if (at.canWrite()) {
            found.add(at.getPath());
        }
        File[] inside = depth == 0 ? null : at.listFiles(File::isDirectory);
        for (File one : inside == null ? new File[0] : inside) {
            writable(one, depth - 1, found);
        }
    }

    private static String write(Path directory) {
        if (!Files.isDirectory(directory)) {
            return "absent";
        }
        if (PASSIVE) {
            return Files.isWritable(directory) ? "WRITABLE" : "denied";
        }
        try {
            Files.delete(Files.createTempFile(directory, "probe", ""));
            return "WRITABLE";
        } catch (IOException refused) {
            return why(refused);
        }
    }

    private static String why(IOException refused) {
        if (("" + refused.getMessage()).contains("Read-only file system")) {
            return "read-only";
        }
        return "denied";
    }

    /** Tells whether a file can be opened for writing; nothing is ever written. */
    private static String open(String path) {
        if (!Files.exists(Path.of(path), LinkOption.NOFOLLOW_LINKS)) {
            return "absent";
        }
        if (PASSIVE) {
            return Files.isWritable(Path.of(path)) ? "WRITABLE" : "denied";
        }
        try {
            FileChannel.open(Path.of(path), StandardOpenOption.WRITE).close();
            return "WRITABLE";
        } catch (IOException refused) {
            return why(refused);
        }
    }

    // ---- devices and the kernel's files --------------------------------------------------

    private static void devices() {
        fact("dev", isHosts("mnt") ? "the host's" : String.join(" ", names("/dev")));
        for (String name : "kmsg mem fuse kvm net/tun vda sda".split(" ")) {
            String path = "/dev/" + name;
            if (!Files.exists(Path.of(path))) {
                fact("device." + path, "absent");
            } else if (PASSIVE) {
                fact("device." + path, Files.isReadable(Path.of(path)) ? "OPENED" : "denied");
            } else {
                try {
                    Files.newByteChannel(Path.of(path), StandardOpenOption.READ).close();
                    fact("device." + path, "OPENED");
                } catch (IOException refused) {
                    fact("device." + path, "denied");
                }
            }
        }
    }

    private static void kernelFiles() {
        for (String path :
                ("/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats"
                                + " /proc/sched_debug /proc/scsi /proc/timer_list /sys/dev/block /sys/firmware"
                                + " /sys/devices/virtual/powercap /sys/fs/selinux")
                        .split(" ")) {
            fact("hidden." + path, look(Path.of(path)));
        }
        for (String path :
                ("/proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname"
                                + " /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity"
                                + " /proc/self/oom_score_adj /sys/kernel/uevent_helper /sys/power/state")
                        .split(" ")) {
            fact("control." + path, open(path));
        }
    }

    // ---- limits ------------------------------------------------------------------------

    private static void limits() {
        Map<String, String> names = new TreeMap<>();
        names.put("Max core file size", "core");
        names.put("Max open files", "nofile");
        names.put("Max processes", "nproc");
        names.put("Max locked memory", "memlock");
        names.put("Max file size", "fsize");
        names.put("Max address space", "as");
        for (String line : lines("/proc/self/limits")) {
            String[] words = line.split("\\s{2,}");
            if (names.containsKey(words[0])) {
                fact("limit." + names.get(words[0]), words[2]); // the hard one: the JVM takes it
            }
        }
    }

    private static void cgroup() {
        boolean v2 = Files.exists(Path.of("/sys/fs/cgroup/cgroup.controllers"));
        String own = cgroup(v2, "memory");
        fact("cgroup.path", own.equals("/") ? "/" : own.isEmpty() ? "unknown" : "the host's");
        fact("cgroup.pids", cgroup(v2, "pids", "pids.max", "pids.max"));
        fact("cgroup.memory", cgroup(v2, "memory", "memory.limit_in_bytes", "memory.max"));
        fact("cgroup.cpu", cgroup(v2, "cpu", "cpu.shares", "cpu.weight"));
        String memory = "/sys/fs/cgroup" + (v2 ? "" : "/memory");
        fact("cgroup.join", open(memory + "/cgroup.procs"));
        fact("cgroup.release_agent", open(memory + "/release_agent"));
    }

    /** Returns the path of the process's own group, as it sees it; empty when there is none. */
    private static String cgroup(boolean v2, String controller) {
        for (String line : lines("/proc/self/cgroup")) {
            String[] parts = line.split(":", 3);
            if (v2 ? parts[0].equals("0") : ("," + parts[1] + ",").contains("," + controller + ",")) {
                return parts[2];
            }
        }
        return "";
    }

    private static String cgroup(boolean v2, String controller, String old, String file) {
        String top = "/sys/fs/cgroup/" + (v2 ? "" : controller);
        List<String> found = lines(top + cgroup(v2, controller) + "/" + (v2 ? file : old));
        return found.isEmpty() ? "unseen" : found.get(0).replace("9223372036854771712", "max");
    }

    // ---- network and surroundings --------------------------------------------------------

    private static void network() throws Exception {
        List<String> up = new ArrayList<>();
        for (NetworkInterface one : Collections.list(NetworkInterface.getNetworkInterfaces())) {
            up.add(one.isLoopback() ? "loopback" : "other");
        }
        fact(
                "network.interfaces",
                isHosts("net") ? "the host's" : String.join(" ", new TreeSet<>(up)));
        boolean abstractName = false;
        for (String line : lines("/proc/net/unix")) {
            abstractName |= line.endsWith("@" + ENV.get("PROBE_ABSTRACT"));
        }
        fact("network.abstract-sockets", abstractName ? "REACHED" : "unseen");
        try (Socket socket = new Socket()) {
            int port = Integer.parseInt(ENV.getOrDefault("PROBE_PORT", "1"));
            socket.connect(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 2000);
            fact("network.host-loopback", "REACHED");
        } catch (IOException refused) {
            fact("network.host-loopback", "refused");
        }
        String name = String.join("", lines("/proc/sys/kernel/hostname"));
        fact("hostname", name.equals(ENV.get("PROBE_HOSTNAME")) ? "the host's" : "own");
    }

    private static void environment() {
        fact("environment.agent", ENV.containsKey(ENV.get("PROBE_CANARY")) ? "READ" : "hidden");
        Set<String> names = new TreeSet<>();
        for (String name : ENV.keySet()) {
            if (!name.matches("(NOMAD|PROBE)_.*")) {
                names.add(name);
            }
        }
        names.removeAll(Arrays.asList("_", "PWD", "SHLVL", "OLDPWD"));
        boolean few = Set.of("HOME", "JAVA_HOME", "LANG", "LOGNAME", "PATH", "USER").containsAll(names);
        fact("environment.names", few ? String.join(" ", names) : "and the agent's");
        boolean own = lines("/etc/passwd").size() < 5;
        fact("etc.passwd", Files.exists(Path.of("/etc/passwd")) ? own ? "own" : "the host's" : "absent");
    }

    // ---- programs ----------------------------------------------------------------------

    private static void shell() throws Exception {
        Path local = Path.of(ENV.getOrDefault("NOMAD_TASK_DIR", "/local"));
        String script = ENV.getOrDefault("PROBE_SCRIPT", ":");
        List<String> printed = run("/bin/sh", "-c", script);
        fact("shell", printed == null ? "none" : "there");
        for (String line : printed == null ? List.<String>of() : printed) {
            String[] words = line.split(" ", 2);
            if (words.length == 2 && words[0].matches("shell\\.[a-z-]+")) {
                fact(words[0], words[1]);
            }
        }
        // A program that root owns and that runs as its owner, where the kernel lets it.
        String read = "while read -r a b c d; do [ \"$a\" = Uid: ] && echo $c; done </proc/self/status";
        List<String> ids = run(local + "/setuid-shell", "-p", "-c", read);
        fact("setuid-program", ids == null ? "not run" : "runs as " + String.join(" ", ids));
    }

    /** Runs a program and returns what it printed, or null when there is none. */
    private static List<String> run(String... command) throws Exception {
        Process process;
        try {
            process = new ProcessBuilder(command).redirectErrorStream(true).start();
        } catch (IOException missing) {
            return null;
        }
        process.getOutputStream().close();
        String text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        process.waitFor();
        return Arrays.asList(text.strip().split("\n"));
    }

    // ---- files -------------------------------------------------------------------------

    private static List<String> lines(String path) {
        try {
            return Files.readAllLines(Path.of(path), StandardCharsets.ISO_8859_1);
        } catch (IOException unreadable) {
            return List.of();
        }
    }

    private static List<String> names(String directory) {
        String[] found = new File(directory).list();
        List<String> result = new ArrayList<>(Arrays.asList(found == null ? new String[0] : found));
        Collections.sort(result);
        return result;
    }
}
