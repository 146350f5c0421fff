import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.util.concurrent.locks.LockSupport;
import java.util.zip.CRC32;

/**
 * Prints numbered, dated, checksummed lines on both streams, until it is terminated.
 * Arguments: bytes a second on each stream; from how many microseconds on a write is a stall.
 *
 * <p>Written to chaos.log in NOMAD_TASK_DIR, times in milliseconds since the epoch:
 * <pre>
 * start TIME                            each JVM once
 * stall STREAM TIME MICROSECONDS        a write that began at TIME and took so long
 * refused STREAM TIME                   nobody held the other end; it is tried again
 * end STREAM LINES BYTES MICROSECONDS   in the end: all that was written, its longest write
 * </pre>
 */
public final class ChaosLines {
    private static final String FILLER =
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789".repeat(10);
    private static final byte[] HEX = "0123456789abcdef".getBytes();
    private static final int LARGEST_WRITE = 8192;
    private static final long RETRY_NS = 1_000_000;

    private static volatile boolean stopped;

    public static void main(String[] args) throws Exception {
        long rate = Long.parseLong(args[0]);
        long stallUs = Long.parseLong(args[1]);
        FileOutputStream report =
                new FileOutputStream(System.getenv("NOMAD_TASK_DIR") + "/chaos.log", true);
        note(report, "start " + System.currentTimeMillis());
        Writer[] writers = {
            new Writer('o', FileDescriptor.out, rate, stallUs, report),
            new Writer('e', FileDescriptor.err, rate, stallUs, report),
        };
        Runtime.getRuntime().addShutdownHook(new Thread(() -> finish(writers, report)));
        for (Writer writer : writers) {
            writer.start();
        }
    }

    private static void finish(Writer[] writers, FileOutputStream report) {
        stopped = true;
        try {
            for (Writer writer : writers) {
                writer.join();
                note(report, "end " + writer.stream + " " + writer.lines + " " + writer.bytes
                        + " " + writer.longestUs);
            }
        } catch (InterruptedException problem) {
            Thread.currentThread().interrupt();
        }
    }

    private static void note(FileOutputStream report, String text) {
        try {
            report.write((text + "\n").getBytes());
        } catch (IOException problem) {
            // Without its report the run fails: nothing is to be done about it here.
        }
    }

    /** Writes one stream. It allocates nothing, so that no collector holds it up. */
    private static final class Writer extends Thread {
        final char stream;
        long lines;
        long bytes;
        long longestUs;

        private final FileChannel channel;
        private final FileOutputStream report;
        private final long rate;
        private final long stallUs;
        private final byte[] line = new byte[600];
        private final CRC32 crc = new CRC32();
        private final ByteBuffer buffer = ByteBuffer.allocateDirect(LARGEST_WRITE);
        private int lineLength;
        private int lineUsed;
        private long random = 88172645463325252L;

        Writer(char stream, FileDescriptor target, long rate, long stallUs, FileOutputStream report) {
            this.stream = stream;
            this.channel = new FileOutputStream(target).getChannel();
            this.rate = rate;
            this.stallUs = stallUs;
            this.report = report;
        }

        @Override
        public void run() {
            long due = System.nanoTime();
            while (!stopped) {
                fill(nextSize());
                int size = buffer.remaining();
                write();
                // What a stall has held up is not made up for by a burst.
                due = Math.max(due + size * 1_000_000_000L / rate, System.nanoTime() - 20_000_000);
                long early = due - System.nanoTime();
                if (early > 500_000) {
                    LockSupport.parkNanos(early);
                }
            }
            fill(lineLength - lineUsed);
            write();
        }

        /** Half of the writes are as short as a line, the others up to 8 KiB. */
        private int nextSize() {
            random ^= random << 13;
            random ^= random >>> 7;
            random ^= random << 17;
            int limit = (random & 1) == 0 ? 256 : LARGEST_WRITE;
            return 1 + (int) ((random >>> 8) % limit);
        }

        /** Puts the next {@code size} bytes into the buffer: writes do not end where lines do. */
        private void fill(int size) {
            buffer.clear();
            int left = size;
            while (left > 0) {
                if (lineUsed == lineLength) {
                    makeLine();
                }
                int count = Math.min(left, lineLength - lineUsed);
                buffer.put(line, lineUsed, count);
                lineUsed += count;
                left -= count;
            }
            buffer.flip();
        }

        /** {@code STREAM NUMBER(12) TIME(13) FILLER(20 to 419) CRC-32(8)}. */
        private void makeLine() {
            long number = lines++;
            int filler = 20 + (int) (number * 37 % 400);
            line[0] = (byte) stream;
            line[1] = ' ';
            decimal(number, 2, 12);
            line[14] = ' ';
            decimal(System.currentTimeMillis(), 15, 13);
            line[28] = ' ';
            for (int i = 0; i < filler; i++) {
                line[29 + i] = (byte) FILLER.charAt((int) (number % 62) + i);
            }
            int at = 29 + filler;
            crc.reset();
            crc.update(line, 0, at);
            long sum = crc.getValue();
            line[at++] = ' ';
            for (int shift = 28; shift >= 0; shift -= 4) {
                line[at++] = HEX[(int) (sum >> shift) & 15];
            }
            line[at++] = '\n';
            lineLength = at;
            lineUsed = 0;
        }

        private void decimal(long value, int at, int digits) {
            for (int i = at + digits - 1; i >= at; i--) {
                line[i] = (byte) ('0' + value % 10);
                value /= 10;
            }
        }

        private void write() {
            boolean refused = false;
            long began = System.nanoTime();
            while (buffer.hasRemaining()) {
                try {
                    bytes += channel.write(buffer);
                } catch (IOException problem) {
                    if (!refused) {
                        refused = true;
                        note(report, "refused " + stream + " " + System.currentTimeMillis());
                    }
                    LockSupport.parkNanos(RETRY_NS);
                }
            }
            long tookUs = (System.nanoTime() - began) / 1000;
            longestUs = Math.max(longestUs, tookUs);
            if (tookUs >= stallUs) {
                note(report, "stall " + stream + " " + (System.currentTimeMillis() - tookUs / 1000)
                        + " " + tookUs);
            }
        }
    }
}
