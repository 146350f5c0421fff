import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * Prints what an application can tell of its place: a key, a space and a value on each line.
 *
 * <p>Then it ends with the status in PARITY_EXIT, if there is one.
 */
public final class Parity {
    private static final Map<String, String> ENV = System.getenv();

    public static void main(String[] args) throws IOException {
        say("arguments", String.join("|", args));
        for (Map.Entry<String, String> entry : new TreeMap<>(ENV).entrySet()) {
            say("env." + entry.getKey(), entry.getValue().replace('\n', ' '));
        }
        for (String name : "user.dir user.name user.home java.io.tmpdir java.home".split(" ")) {
            say("property." + name, System.getProperty(name));
        }
        say("property.milo.test", "" + System.getProperty("milo.test"));
        say("pid", "" + ProcessHandle.current().pid());
        say("processors", "" + Runtime.getRuntime().availableProcessors());
        say("heap", "" + Runtime.getRuntime().maxMemory());
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.matches("(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Umask):.*")) {
                String[] words = line.split(":", 2);
                say("status." + words[0], words[1].strip().replaceAll("\\s+", " "));
            }
        }
        for (String kind : "pid ipc net uts mnt".split(" ")) {
            say("namespace." + kind, Files.readSymbolicLink(Path.of("/proc/self/ns", kind)) + "");
        }
        for (String line : Files.readAllLines(Path.of("/proc/self/limits"))) {
            if (line.startsWith("Max open files") || line.startsWith("Max core")) {
                String name = line.substring(4, 26).strip().replace(' ', '-');
                say("limit." + name, line.substring(26, 66).strip().replaceAll(" +", " "));
            }
        }
        directories();
        System.out.println("told");
        if (ENV.containsKey("PARITY_EXIT")) {
            System.exit(Integer.parseInt(ENV.get("PARITY_EXIT")));
        }
    }

    private static void directories() throws IOException {
        for (String place : "/ /local /secrets /alloc /alloc/data /alloc/tmp /tmp local . /opt".split(" ")) {
            Path path = Path.of(place);
            say("directory." + place, Files.isDirectory(path) ? "there" : "absent");
            say("writable." + place, "" + canWrite(path));
        }
        for (String place : "/local /secrets /alloc /tmp".split(" ")) {
            TreeSet<String> names = new TreeSet<>();
            try (DirectoryStream<Path> list = Files.newDirectoryStream(Path.of(place))) {
                list.forEach(entry -> names.add(entry.getFileName().toString()));
            } catch (IOException refused) {
                names.add("unreadable");
            }
            names.removeIf(name -> name.startsWith("hsperfdata_"));
            say("names." + place, String.join(" ", names));
        }
        Path here = Path.of("relative");
        if (canWrite(Path.of("."))) {
            Files.write(here, List.of("written"));
            say("relative", here.toRealPath().toString());
            Files.delete(here);
        }
    }

    private static boolean canWrite(Path directory) {
        try {
            Files.delete(Files.createTempFile(directory, "parity", ""));
            return true;
        } catch (IOException refused) {
            return false;
        }
    }

    private static void say(String key, String value) {
        System.out.println((key + " " + value).strip());
    }
}
