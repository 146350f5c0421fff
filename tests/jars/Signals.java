import java.util.ArrayList;
import java.util.List;
import sun.misc.Signal;

/**
 * Prints each signal that it gets and stays. Arguments: names without SIG to listen to.
 *
 * <p>Those that it cannot listen to, since the JVM or Linux keeps them, are left out. From
 * the first one on it prints the time every 20 ms, in milliseconds since the JVM's start.
 */
public final class Signals {
    private static volatile boolean counting;

    public static void main(String[] args) throws InterruptedException {
        List<String> heard = new ArrayList<>();
        for (String name : args) {
            try {
                Signal.handle(new Signal(name), signal -> {
                    System.out.println("got SIG" + signal.getName() + " " + now());
                    counting = true;
                });
                heard.add(name);
            } catch (IllegalArgumentException kept) {
                continue;
            }
        }
        System.out.println("listens to " + String.join(" ", heard) + ".");
        while (true) {
            Thread.sleep(20);
            if (counting && System.getenv("COUNT") != null) {
                System.out.println("at " + now());
            }
        }
    }

    private static long now() {
        return System.nanoTime() / 1_000_000;
    }
}
