/**
 * Says what happens to it when it is asked to end.
 * The argument is how long its shutdown hook takes, in milliseconds.
 */
public final class Stubborn {
    public static void main(String[] args) throws InterruptedException {
        long pause = args.length > 0 ? Long.parseLong(args[0]) : 0;
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            System.out.println("asked to end");
            try {
                Thread.sleep(pause);
            } catch (InterruptedException problem) {
                Thread.currentThread().interrupt();
            }
            System.out.println("ended in peace");
        }));
        System.out.println("running");
        Thread.sleep(Long.MAX_VALUE);
    }
}
