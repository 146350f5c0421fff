import java.io.FileInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Does what its first argument says, with the others: each fails in a way that users meet. */
public final class Symptoms {
    public static void main(String[] args) throws Throwable {
        String value = args.length > 1 ? args[1] : "";
        switch (args[0]) {
            case "write":
                Files.write(Path.of(value), "x".getBytes(StandardCharsets.UTF_8));
                break;
            case "read":
                Files.readAllBytes(Path.of(value));
                break;
            case "fill":
                try (OutputStream out = Files.newOutputStream(Path.of(value))) {
                    for (int i = 0; i < Integer.parseInt(args[2]); i++) {
                        out.write(new byte[1 << 20]);
                    }
                }
                break;
            case "fetch":
                try (InputStream in = new URL(value).openStream()) {
                    in.readAllBytes();
                }
                break;
            case "bind":
                bind(InetAddress.getByName(args[2]), Integer.parseInt(value));
                break;
            case "bind-twice":
                try (ServerSocket first = new ServerSocket(Integer.parseInt(value))) {
                    new ServerSocket(first.getLocalPort()).close();
                }
                break;
            case "resolve":
                InetAddress.getByName(value);
                break;
            case "connect":
                try (Socket socket = new Socket()) {
                    socket.connect(new InetSocketAddress(args[2], Integer.parseInt(value)), 5000);
                }
                break;
            case "heap":
                byte[][] held = new byte[Integer.parseInt(value)][];
                for (int i = 0; i < held.length; i++) {
                    held[i] = new byte[1 << 20];
                }
                System.out.println(held.length);
                break;
            case "threads":
                List<Thread> threads = new ArrayList<>();
                for (int i = 0; i < Integer.parseInt(value); i++) {
                    Thread thread = new Thread(() -> sleep(60_000));
                    thread.setDaemon(true);
                    thread.start();
                    threads.add(thread);
                }
                break;
            case "files":
                List<FileInputStream> open = new ArrayList<>();
                for (int i = 0; i < Integer.parseInt(value); i++) {
                    open.add(new FileInputStream("/etc/hosts"));
                }
                break;
            case "load":
                System.load(value);
                break;
            case "class":
                Class.forName(value);
                break;
            case "sh":
                System.exit(new ProcessBuilder("/bin/sh", "-c", value).inheritIO().start().waitFor());
                break;
            case "run":
                System.exit(new ProcessBuilder(value).inheritIO().start().waitFor());
                break;
            case "sleep":
                System.out.println("ready");
                sleep(600_000);
                break;
            case "stubborn":
                Runtime.getRuntime().addShutdownHook(new Thread(() -> sleep(600_000)));
                System.out.println("ready");
                sleep(600_000);
                break;
            default:
                throw new IllegalArgumentException(args[0]);
        }
        System.out.println("done");
    }

    private static void bind(InetAddress address, int port) throws Exception {
        try (ServerSocket socket = new ServerSocket()) {
            socket.bind(new InetSocketAddress(address, port));
        }
    }

    private static void sleep(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException exc) {
            throw new IllegalStateException(exc);
        }
    }
}
