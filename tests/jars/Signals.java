import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.List;

/**
 * Prints each signal that it gets and stays. Arguments: names without SIG to listen to.
 *
 * <p>Those that it cannot listen to, since the JVM or Linux keeps them, are left out. With COUNT
 * in the environment it prints the time every 20 ms from the first signal on, in milliseconds.
 *
 * <p>javac warns of sun.misc.Signal in a way that nothing turns off, but for reflection.
 */
public final class Signals {
    private static volatile boolean counting;

    public static void main(String[] args) throws Exception {
        List<String> heard = new ArrayList<>();
        for (String name : args) {
            if (listen(name)) {
                heard.add(name);
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

    private static boolean listen(String name) throws Exception {
        Class<?> kind = Class.forName("sun.misc.Signal");
        Class<?> handler = Class.forName("sun.misc.SignalHandler");
        Object hears = Proxy.newProxyInstance(
                Signals.class.getClassLoader(), new Class<?>[] {handler}, (self, method, given) -> {
                    System.out.println("got SIG" + name + " " + now());
                    counting = true;
                    return null;
                });
        try {
            Object signal = kind.getConstructor(String.class).newInstance(name);
            kind.getMethod("handle", kind, handler).invoke(null, signal, hears);
            return true;
        } catch (InvocationTargetException kept) {
            return false;
        }
    }

    private static long now() {
        return System.nanoTime() / 1_000_000;
    }
}
