/** Prints a line and fails. */
public final class Exit42 {
    public static void main(String[] args) {
        System.out.println("About to fail");
        System.exit(args.length > 0 ? Integer.parseInt(args[0]) : 42);
    }
}
