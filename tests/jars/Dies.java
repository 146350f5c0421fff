import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.List;

/** Says its process id, and ends as its first argument says: by a fault, a signal or its memory. */
public final class Dies {
    public static void main(String[] args) throws Exception {
        long pid = ProcessHandle.current().pid();
        System.out.println("pid " + pid);
        System.out.flush();
        switch (args[0]) {
            case "segv":
                fault();
                break;
            case "oom":
                List<byte[]> kept = new ArrayList<>();
                while (true) {
                    kept.add(new byte[1 << 20]);
                }
            case "exit":
                System.exit(3);
                break;
            case "wait":
                Thread.sleep(600_000);
                break;
            default: // the number of a signal
                new ProcessBuilder("/bin/kill", "-" + args[0], "" + pid).inheritIO().start();
                Thread.sleep(600_000);
        }
    }

    private static void fault() throws Exception {
        Class<?> type = Class.forName("sun.misc.Unsafe");
        Field field = type.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        type.getMethod("putAddress", long.class, long.class).invoke(field.get(null), 8L, 1L);
    }
}
