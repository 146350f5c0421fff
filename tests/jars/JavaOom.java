import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;

/**
 * Runs out of heap as its first argument says: "uncaught" ends with it, after the second
 * argument's number of bytes on stderr, in writes of the third's size; "caught" goes on until it is stopped and meets it again
 * every 100 ms. "mixed" only prints: the second argument's number of bytes in writes of all
 * sizes, and last the error's name in two writes.
 */
public final class JavaOom {
    private static final int[] SIZES = {1, 120, 4095, 4096, 8192, 8193, 20000, 65536};
    private static final int PATTERN = 251;

    public static void main(String[] args) throws Exception {
        int bytes = args.length > 1 ? Integer.parseInt(args[1]) : 0;
        if (args[0].equals("mixed")) {
            mixed(bytes);
            return;
        }
        flood(bytes, args.length > 2 ? Integer.parseInt(args[2]) : 65536);
        while (true) {
            try {
                fill();
            } catch (OutOfMemoryError error) {
                if (args[0].equals("uncaught")) {
                    throw error;
                }
                System.err.println("caught " + error);
            }
            Thread.sleep(100);
        }
    }

    private static void fill() {
        long[][] held = new long[64][];
        for (int i = 0; i < held.length; i++) {
            held[i] = new long[1 << 24];
        }
        throw new IllegalStateException("8 GiB fit into the heap: " + held.length);
    }

    private static void flood(int bytes, int size) throws IOException {
        byte[] line = new byte[size];
        java.util.Arrays.fill(line, (byte) '.');
        line[line.length - 1] = '\n';
        FileOutputStream err = new FileOutputStream(FileDescriptor.err);
        for (int left = bytes; left > 0; left -= line.length) {
            err.write(line, 0, Math.min(left, line.length));
        }
    }

    private static void mixed(int bytes) throws Exception {
        byte[] pattern = new byte[PATTERN + 65536];
        for (int i = 0; i < pattern.length; i++) {
            pattern[i] = (byte) (i % PATTERN);
        }
        FileOutputStream out = new FileOutputStream(FileDescriptor.out);
        int at = 0;
        for (int turn = 0; at < bytes; turn++) {
            int size = Math.min(SIZES[turn * 7 % SIZES.length], bytes - at);
            out.write(pattern, at % PATTERN, size);
            at += size;
            if (turn % 3 == 0) {
                Thread.sleep(1);
            }
        }
        Thread.sleep(20);
        out.write("java.lang.OutOf".getBytes());
        Thread.sleep(20);
        out.write("MemoryError: Metaspace\n".getBytes());
    }
}
