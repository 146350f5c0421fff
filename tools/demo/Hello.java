/** The sample of `milo demo`: says what it got, and then a line a second until it is stopped. */
public final class Hello extends Thread {
    public static void main(String[] args) throws InterruptedException {
        Runtime here = Runtime.getRuntime();
        System.out.println("Hello from Java " + System.getProperty("java.version") + ", with "
            + (here.maxMemory() >> 20) + " MiB of heap, in " + System.getProperty("user.dir"));
        for (String argument : args) {
            System.out.println("Argument: " + argument);
        }
        here.addShutdownHook(new Hello());
        for (int number = 1; true; number++) {
            Thread.sleep(1000);
            System.out.println("Line " + number);
        }
    }

    @Override
    public void run() {
        System.out.println("Asked to end. Goodbye!");
    }
}
