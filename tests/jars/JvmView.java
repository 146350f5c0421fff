/** Prints what the JVM takes for its limits, and then waits for as many seconds as it is told. */
public final class JvmView {
    public static void main(String[] args) throws InterruptedException {
        System.out.println("max_mib=" + Runtime.getRuntime().maxMemory() / 1048576);
        System.out.println("processors=" + Runtime.getRuntime().availableProcessors());
        System.out.println("ready");
        Thread.sleep(1000L * Integer.parseInt(args[0]));
    }
}
