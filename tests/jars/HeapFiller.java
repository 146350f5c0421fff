import java.io.InputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import java.util.zip.Deflater;

/**
 * Uses all that a JVM has: threads, classes of its own, compiled code, direct buffers, and a heap
 * that is full. Arguments: threads, classes, MiB of direct buffers, seconds of churn.
 */
public final class HeapFiller {
    static volatile Object sink;

    public static void main(String[] args) throws Exception {
        int threads = Integer.parseInt(args[0]);
        int classes = Integer.parseInt(args[1]);
        int directMib = Integer.parseInt(args[2]);
        long churnMs = 1000 * Long.parseLong(args[3]);
        CountDownLatch ready = new CountDownLatch(threads);
        CountDownLatch never = new CountDownLatch(1);
        for (int number = 0; number < threads; number++) {
            Thread thread = new Thread(() -> {
                sink = deep(200);
                work(new Random(1), 3);
                ready.countDown();
                try {
                    never.await();
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
            });
            thread.setDaemon(true);
            thread.start();
        }
        ready.await();
        System.out.println("threads=" + threads);
        System.out.println("classes=" + load(classes));
        List<ByteBuffer> direct = new ArrayList<>();
        for (int mib = 0; mib < directMib; mib++) {
            ByteBuffer buffer = ByteBuffer.allocateDirect(1 << 20);
            for (int at = 0; at < 1 << 20; at += 4096) {
                buffer.put(at, (byte) 1);
            }
            direct.add(buffer);
        }
        long end = System.currentTimeMillis() + churnMs / 2;
        while (System.currentTimeMillis() < end) {
            work(new Random(2), 20);
        }
        System.out.println("warm");
        Runtime runtime = Runtime.getRuntime();
        long max = runtime.maxMemory();
        List<Object[]> held = new ArrayList<>(100_000);
        Random random = new Random(3);
        // Live data up to four fifths of the heap: the rest is what the collector copies into.
        try {
            long live = runtime.totalMemory() - runtime.freeMemory();
            while (live < max * 80 / 100) {
                held.add(piece(random));
                live += 8500;
            }
        } catch (OutOfMemoryError e) {
            held.subList(held.size() * 9 / 10, held.size()).clear();
            System.out.println("heap full early");
        }
        System.out.println("filled");
        end = System.currentTimeMillis() + churnMs;
        while (System.currentTimeMillis() < end) {
            try {
                for (int round = 0; round < 200; round++) {
                    held.set(random.nextInt(held.size()), piece(random));
                }
                work(random, 1);
            } catch (OutOfMemoryError e) {
                held.subList(held.size() * 9 / 10, held.size()).clear();
            }
        }
        System.gc();
        System.out.println("alive heap=" + runtime.totalMemory() / 1048576
                + " max=" + max / 1048576 + " direct=" + direct.size() + " held=" + held.size());
    }

    static Object[] piece(Random random) {
        Object[] parts = new Object[20];
        for (int index = 0; index < parts.length; index++) {
            parts[index] = new byte[300 + random.nextInt(200)];
        }
        return parts;
    }

    static int deep(int depth) {
        return depth == 0 ? 0 : 1 + deep(depth - 1);
    }

    /** What keeps the compilers busy: formatting, patterns, streams, maps, compression. */
    static void work(Random random, int rounds) {
        for (int round = 0; round < rounds; round++) {
            TreeMap<String, Integer> map = new TreeMap<>();
            for (int index = 0; index < 50; index++) {
                map.put(String.format("%05d-%s", random.nextInt(1000), "x".repeat(5)), index);
            }
            String text = IntStream.range(0, 100).mapToObj(Integer::toString)
                    .filter(word -> word.matches("[0-9]*[13579]")).sorted()
                    .collect(Collectors.joining(","));
            int[] numbers = random.ints(500).toArray();
            Arrays.sort(numbers);
            Deflater deflater = new Deflater();
            deflater.setInput((text + map).getBytes());
            deflater.finish();
            sink = deflater.deflate(new byte[4096]) + numbers[0];
            deflater.end();
        }
    }

    /** Loads and links up to {@code wanted} classes of the JDK as an application's own. */
    static int load(int wanted) throws Exception {
        FileSystem files = FileSystems.getFileSystem(URI.create("jrt:/"));
        Own own = new Own();
        int done = 0;
        for (String module : List.of("java.xml", "jdk.compiler", "java.desktop", "jdk.javadoc")) {
            Path root = files.getPath("/modules", module);
            if (!Files.exists(root)) {
                continue;
            }
            try (Stream<Path> paths = Files.walk(root)) {
                for (Iterator<Path> all = paths.iterator(); all.hasNext() && done < wanted;) {
                    Path path = all.next();
                    String name = root.relativize(path).toString();
                    if (!name.endsWith(".class") || name.startsWith("java")
                            || name.contains("-info") || name.contains("sun/awt/X11")) {
                        continue;
                    }
                    try {
                        own.root = root;
                        Class<?> found = own.loadClass(
                                name.substring(0, name.length() - 6).replace('/', '.'));
                        found.getDeclaredMethods();
                        done++;
                    } catch (LinkageError | ClassNotFoundException e) {
                        sink = e;
                    }
                }
            }
        }
        sink = own;
        return own.count;
    }

    static final class Own extends ClassLoader {
        Path root;
        int count;

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            synchronized (getClassLoadingLock(name)) {
                Class<?> found = findLoadedClass(name);
                if (found != null) {
                    return found;
                }
                Path path = root.resolve(name.replace('.', '/') + ".class");
                if (name.startsWith("java") || !Files.exists(path)) {
                    return super.loadClass(name, resolve);
                }
                try (InputStream in = Files.newInputStream(path)) {
                    byte[] code = in.readAllBytes();
                    count++;
                    return defineClass(name, code, 0, code.length);
                } catch (java.io.IOException e) {
                    throw new ClassNotFoundException(name, e);
                }
            }
        }
    }
}
