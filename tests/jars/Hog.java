import java.util.ArrayList;
import java.util.List;

/** Uses ever more memory. */
public final class Hog {
    public static void main(String[] args) {
        List<byte[]> held = new ArrayList<>();
        while (true) {
            byte[] more = new byte[1 << 20];
            java.util.Arrays.fill(more, (byte) 1);
            held.add(more);
            if (held.size() == 1) {
                System.out.println("growing");
            }
        }
    }
}
