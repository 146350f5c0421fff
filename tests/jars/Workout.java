import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.StandardWatchEventKinds;
import java.nio.file.WatchService;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Does what applications do, in many different system calls, and says what went wrong. */
public final class Workout {
    private interface Exercise {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        exercise("files", Workout::files);
        exercise("watch", Workout::watch);
        exercise("sockets", Workout::sockets);
        exercise("selector", Workout::selector);
        exercise("threads", Workout::threads);
        String tools = System.getProperty("java.home") + "/bin/";
        String pid = Long.toString(ProcessHandle.current().pid());
        for (String command : new String[] {"VM.version", "Thread.print", "GC.heap_info", "JFR.start"}) {
            exercise("jcmd " + command, () -> program(tools + "jcmd", pid, command));
        }
        exercise("jcmd JFR.dump",
            () -> program(tools + "jcmd", pid, "JFR.dump", "filename=/tmp/workout.jfr"));
        exercise("jfr", () -> program(tools + "jfr", "summary", "/tmp/workout.jfr"));
        exercise("jstack", () -> program(tools + "jstack", pid));
        System.out.println("pid " + pid);
        System.out.println("done");
    }

    private static void exercise(String name, Exercise exercise) {
        try {
            exercise.run();
            System.out.println("ok " + name);
        } catch (Throwable problem) {
            System.out.println("FAILED " + name + ": " + problem);
        }
    }

    private static void files() throws IOException {
        Path path = Files.createTempFile("workout", "");
        try (FileChannel channel = FileChannel.open(
                path, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            MappedByteBuffer mapped = channel.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 16);
            mapped.put(5, (byte) 7);
            mapped.force();
            channel.force(true);
            channel.lock().release();
            Path copy = Path.of(path + ".copy");
            try (FileChannel other = FileChannel.open(
                    copy, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
                channel.transferTo(0, channel.size(), other);
            }
            Files.copy(path, Path.of(path + ".copy2"));
            Files.move(copy, Path.of(path + ".moved"));
            Files.createSymbolicLink(Path.of(path + ".link"), path);
            Files.setLastModifiedTime(path, Files.getLastModifiedTime(path));
        }
    }

    private static void watch() throws Exception {
        try (WatchService service = FileSystems.getDefault().newWatchService()) {
            Path directory = Files.createTempDirectory("workout");
            directory.register(service, StandardWatchEventKinds.ENTRY_CREATE);
            Files.createFile(directory.resolve("x"));
            if (service.poll(30, TimeUnit.SECONDS) == null) {
                throw new IOException("no event");
            }
        }
    }

    private static void sockets() throws IOException {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
                Socket client = new Socket(server.getInetAddress(), server.getLocalPort());
                Socket accepted = server.accept()) {
            client.setTcpNoDelay(true);
            client.getOutputStream().write(42);
            if (accepted.getInputStream().read() != 42) {
                throw new IOException("not what was sent");
            }
        }
    }

    private static void selector() throws IOException {
        try (Selector selector = Selector.open();
                ServerSocketChannel server = ServerSocketChannel.open()) {
            server.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
            server.configureBlocking(false);
            server.register(selector, SelectionKey.OP_ACCEPT);
            try (SocketChannel client = SocketChannel.open(server.getLocalAddress())) {
                if (selector.select(30_000) != 1) {
                    throw new IOException("nothing to accept");
                }
                server.accept().close();
                client.read(ByteBuffer.allocate(1));
            }
        }
    }

    private static void threads() throws Exception {
        CountDownLatch latch = new CountDownLatch(200);
        for (int i = 0; i < 200; i++) {
            Runnable work = () -> {
                try {
                    Thread.sleep(1);
                } catch (InterruptedException ignored) {
                    Thread.currentThread().interrupt();
                }
                latch.countDown();
            };
            try { // Java 21 and later
                Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, work);
            } catch (NoSuchMethodException | UnsupportedOperationException old) {
                new Thread(work).start();
            } catch (java.lang.reflect.InvocationTargetException preview) {
                new Thread(work).start();
            }
        }
        if (!latch.await(30, TimeUnit.SECONDS)) {
            throw new IOException(latch.getCount() + " threads did not run");
        }
    }

    private static void program(String... command) throws Exception {
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String text = new String(process.getInputStream().readAllBytes());
        if (process.waitFor() != 0) {
            throw new IOException("exit " + process.exitValue() + ": " + text);
        }
    }
}
