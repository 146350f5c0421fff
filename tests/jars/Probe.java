import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;

/** Prints what a program sees of its place: a key, a space and a value on each line. */
public final class Probe {
    public static void main(String[] args) throws IOException {
        for (int i = 0; i < args.length; i++) {
            System.out.println("arg." + i + " " + args[i]);
        }
        for (Map.Entry<String, String> entry : new TreeMap<>(System.getenv()).entrySet()) {
            System.out.println("env." + entry.getKey() + " " + entry.getValue().replace('\n', ' '));
        }
        System.out.println("cwd " + Path.of("").toAbsolutePath());
        System.out.println("pid " + ProcessHandle.current().pid());
        System.out.println("java.home " + System.getProperty("java.home"));
        System.out.println("java.version " + System.getProperty("java.version"));
        System.out.println("property " + System.getProperty("milo.test"));
        System.out.println("max_memory " + Runtime.getRuntime().maxMemory());
        System.out.println("processors " + Runtime.getRuntime().availableProcessors());
        copy("status", "/proc/self/status");
        copy("mount", "/proc/self/mounts");
        copy("cgroup", "/proc/self/cgroup");
        copy("limits", "/proc/self/limits");
        copy("oom_score_adj", "/proc/self/oom_score_adj");
    }

    private static void copy(String key, String file) {
        try {
            for (String line : Files.readAllLines(Path.of(file))) {
                System.out.println(key + " " + line);
            }
        } catch (IOException problem) {
            System.out.println(key + " unreadable: " + problem);
        }
    }
}
