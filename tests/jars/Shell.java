/** Runs its first argument in a shell, with its own streams, and exits as that does. */
public final class Shell {
    public static void main(String[] args) throws Exception {
        Process process = new ProcessBuilder("/bin/sh", "-c", args[0]).inheritIO().start();
        System.exit(process.waitFor());
    }
}
