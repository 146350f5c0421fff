/** Starts threads until there are no more to be had, says how many there were, and ends. */
public final class ThreadBomb {
    public static void main(String[] args) {
        int count = 0;
        try {
            while (true) {
                Thread thread = new Thread(() -> {
                    try {
                        Thread.sleep(600_000);
                    } catch (InterruptedException e) {
                        Thread.currentThread().interrupt();
                    }
                });
                thread.setDaemon(true);
                thread.start();
                count++;
            }
        } catch (OutOfMemoryError e) {
            System.out.println("threads=" + count);
            System.out.println(e.getMessage());
            System.out.flush();
            Runtime.getRuntime().halt(3);
        }
    }
}
