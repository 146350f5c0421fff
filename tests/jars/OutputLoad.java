import java.io.BufferedOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Arrays;
import java.util.concurrent.locks.LockSupport;

/**
 * Prints lines of 120 bytes as fast as it can, or at a pace, each time that it is told to.
 *
 * <p>The first line is {@code main TIME HEAP}: when its main method began, in microseconds since
 * the epoch, and the bytes of the largest heap. Each argument is a phase, which begins when the
 * file {@code go-N} is in NOMAD_TASK_DIR, N being 1 for the first one:
 * <pre>
 * bulk:BUFFER:LINES       through a buffer of so many bytes; the first line has the time, others 0
 * paced:PER_SECOND:LINES  each by a write of its own, with the time just before it
 * </pre>
 * In the end it waits until it is terminated.
 */
public final class OutputLoad {
    private static final int LENGTH = 120;
    private static final int TIME_DIGITS = 16;
    private static final int NUMBER_DIGITS = 12;
    private static final long LOOK_NS = 2_000_000;

    private static final byte[] LINE = new byte[LENGTH];

    public static void main(String[] args) throws Exception {
        long began = now();
        OutputStream out = new FileOutputStream(FileDescriptor.out);
        String first = "main " + began + " " + Runtime.getRuntime().maxMemory() + "\n";
        out.write(first.getBytes());
        Arrays.fill(LINE, (byte) '.');
        LINE[TIME_DIGITS] = ' ';
        LINE[LENGTH - 1] = '\n';
        for (int i = 0; i < args.length; i++) {
            Path go = Path.of(System.getenv("NOMAD_TASK_DIR"), "go-" + (i + 1));
            while (!Files.exists(go)) {
                LockSupport.parkNanos(LOOK_NS);
            }
            String[] words = args[i].split(":");
            int lines = Integer.parseInt(words[2]);
            if (words[0].equals("bulk")) {
                bulk(new BufferedOutputStream(out, Integer.parseInt(words[1])), lines);
            } else {
                paced(out, 1_000_000_000L / Integer.parseInt(words[1]), lines);
            }
        }
        Thread.sleep(Long.MAX_VALUE);
    }

    private static void bulk(OutputStream out, int lines) throws IOException {
        decimal(now(), 0, TIME_DIGITS);
        for (int i = 0; i < lines; i++) {
            decimal(i, TIME_DIGITS + 1, NUMBER_DIGITS);
            out.write(LINE, 0, LENGTH);
            if (i == 0) {
                decimal(0, 0, TIME_DIGITS);
            }
        }
        out.flush();
    }

    private static void paced(OutputStream out, long periodNs, int lines) throws IOException {
        long start = System.nanoTime();
        for (int i = 0; i < lines; i++) {
            long early;
            while ((early = start + i * periodNs - System.nanoTime()) > 0) {
                LockSupport.parkNanos(early);
            }
            decimal(i, TIME_DIGITS + 1, NUMBER_DIGITS);
            decimal(now(), 0, TIME_DIGITS);
            out.write(LINE, 0, LENGTH);
        }
    }

    private static long now() {
        return ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
    }

    private static void decimal(long value, int at, int digits) {
        for (int i = at + digits - 1; i >= at; i--) {
            LINE[i] = (byte) ('0' + value % 10);
            value /= 10;
        }
    }
}
