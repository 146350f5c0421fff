import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;

/** Writes every byte value, in order, to stdout and in reverse to stderr; the argument: rounds. */
public final class Binary {
    public static void main(String[] args) throws IOException {
        int rounds = args.length > 0 ? Integer.parseInt(args[0]) : 16;
        byte[] up = new byte[256];
        byte[] down = new byte[256];
        for (int i = 0; i < 256; i++) {
            up[i] = (byte) i;
            down[i] = (byte) (255 - i);
        }
        try (FileOutputStream out = new FileOutputStream(FileDescriptor.out);
                FileOutputStream err = new FileOutputStream(FileDescriptor.err)) {
            for (int i = 0; i < rounds; i++) {
                out.write(up);
                err.write(down);
            }
        }
    }
}
