import java.io.FileOutputStream;
import java.io.FileDescriptor;
import java.io.IOException;

/**
 * Writes the argument's number of bytes to stdout and to stderr, both at once and as fast as
 * they are taken. Lines of 100 bytes: stream, number of the line, filler. The second argument
 * is the size of one write in bytes (default 64 KiB).
 */
public final class Volume {
    private static final int LINE = 100;

    public static void main(String[] args) throws Exception {
        long bytes = Long.parseLong(args[0]);
        int chunk = args.length > 1 ? Integer.parseInt(args[1]) : 65536;
        Thread out = writer('o', FileDescriptor.out, bytes, chunk);
        Thread err = writer('e', FileDescriptor.err, bytes, chunk);
        out.start();
        err.start();
        out.join();
        err.join();
    }

    private static Thread writer(char stream, FileDescriptor target, long bytes, int chunk) {
        return new Thread(() -> {
            try (FileOutputStream output = new FileOutputStream(target)) {
                byte[] buffer = new byte[chunk];
                byte[] line = new byte[LINE];
                int used = LINE;
                long number = 0;
                long left = bytes;
                while (left > 0) {
                    int size = (int) Math.min(chunk, left);
                    for (int i = 0; i < size; i++) {
                        if (used == LINE) {
                            fill(line, stream, number++);
                            used = 0;
                        }
                        buffer[i] = line[used++];
                    }
                    output.write(buffer, 0, size);
                    left -= size;
                }
            } catch (IOException problem) {
                throw new IllegalStateException(problem);
            }
        });
    }

    /** A line: the stream's letter, twelve digits, a space, 85 dots and a newline. */
    private static void fill(byte[] line, char stream, long number) {
        line[0] = (byte) stream;
        for (int i = 12; i > 0; i--) {
            line[i] = (byte) ('0' + number % 10);
            number /= 10;
        }
        line[13] = ' ';
        for (int i = 14; i < LINE - 1; i++) {
            line[i] = '.';
        }
        line[LINE - 1] = '\n';
    }
}
