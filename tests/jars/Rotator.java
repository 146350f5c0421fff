/** Prints the argument's number of numbered lines of 1024 bytes, then waits to be terminated. */
public final class Rotator {
    public static void main(String[] args) throws InterruptedException {
        int lines = Integer.parseInt(args[0]);
        String filler = ".".repeat(1024 - 9);
        for (int i = 0; i < lines; i++) {
            System.out.println(String.format("%08d", i) + filler);
        }
        System.err.println("done");
        Thread.sleep(Long.MAX_VALUE);
    }
}
