import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Uses ever more memory beside its heap, and prints how many KiB of it are really there. */
public final class NativeHog {
    public static void main(String[] args) throws Exception {
        List<ByteBuffer> held = new ArrayList<>();
        while (true) {
            ByteBuffer more = ByteBuffer.allocateDirect(1 << 20);
            for (int at = 0; at < 1 << 20; at += 4096) {
                more.put(at, (byte) 1);
            }
            held.add(more);
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith("RssAnon:")) {
                    System.out.println(line.replaceAll("\\D+", " ").trim());
                }
            }
        }
    }
}
