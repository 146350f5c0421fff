/** A service that reports its progress until it is terminated. */
public final class StreamingTest {
    public static void main(String[] args) throws InterruptedException {
        System.out.println("Starting application...");
        while (true) {
            Thread.sleep(2000);
            System.out.println("Processing...");
        }
    }
}
