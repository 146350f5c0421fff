import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * Does what each argument says, in their order, and prints a line for it:
 * self, interfaces, resolve=NAME, read=PATH, bind=ADDRESS, listen=ADDRESS:PORT:TEXT,
 * connect=NAME:PORT (tries for 30 s), wait (for ever).
 */
public final class Network {
    public static void main(String[] args) throws Exception {
        for (String arg : args) {
            String[] parts = arg.split("=", 2);
            String value = parts.length > 1 ? parts[1] : "";
            System.out.println(parts[0] + " " + run(parts[0], value));
        }
    }

    private static String run(String action, String value) throws Exception {
        switch (action) {
            case "self":
                InetAddress self = InetAddress.getLocalHost();
                return self.getHostName() + " " + self.getHostAddress();
            case "interfaces":
                return interfaces();
            case "resolve":
                return value + " " + resolve(value);
            case "read":
                return value + " " + Files.readString(Path.of(value)).replace("\n", "|");
            case "bind":
                return value + " " + bind(value);
            case "listen":
                return listen(value.split(":", 3));
            case "connect":
                int colon = value.lastIndexOf(':');
                return connect(value.substring(0, colon), value.substring(colon + 1));
            case "wait":
                System.out.println("waiting");
                Thread.currentThread().join();
                return "";
            default:
                throw new IllegalArgumentException(action);
        }
    }

    private static String interfaces() throws IOException {
        List<String> names = new ArrayList<>();
        for (NetworkInterface one : Collections.list(NetworkInterface.getNetworkInterfaces())) {
            names.add(one.getName());
        }
        Collections.sort(names);
        return String.join(" ", names);
    }

    private static String resolve(String name) {
        try {
            List<String> found = new ArrayList<>();
            for (InetAddress address : InetAddress.getAllByName(name)) {
                found.add(address.getHostAddress());
            }
            return String.join(" ", found);
        } catch (UnknownHostException unknown) {
            return "unknown";
        }
    }

    private static String bind(String address) throws IOException {
        try (ServerSocket server = new ServerSocket()) {
            server.bind(new InetSocketAddress(address, 0));
            try (Socket client = new Socket(address, server.getLocalPort())) {
                return "works " + client.isConnected();
            }
        } catch (IOException problem) {
            return "fails " + problem;
        }
    }

    private static String listen(String[] words) throws IOException {
        ServerSocket server = new ServerSocket();
        server.setReuseAddress(true);
        server.bind(new InetSocketAddress(words[0], Integer.parseInt(words[1])));
        Thread thread = new Thread(() -> {
            while (true) {
                try (Socket client = server.accept(); OutputStream out = client.getOutputStream()) {
                    out.write((words[2] + "\n").getBytes());
                } catch (IOException problem) {
                    System.out.println(problem);
                }
            }
        });
        thread.setDaemon(true);
        thread.start();
        return words[1];
    }

    private static String connect(String host, String port) throws Exception {
        long end = System.nanoTime() + 30_000_000_000L;
        while (true) {
            try (Socket socket = new Socket(host, Integer.parseInt(port))) {
                return new String(socket.getInputStream().readAllBytes()).trim();
            } catch (IOException problem) {
                if (System.nanoTime() > end) {
                    return problem.toString();
                }
                Thread.sleep(50);
            }
        }
    }
}
