/** Writes the same numbered lines to stdout and stderr; the argument says how many. */
public final class Both {
    public static void main(String[] args) {
        int lines = args.length > 0 ? Integer.parseInt(args[0]) : 100;
        for (int i = 0; i < lines; i++) {
            System.out.println("out " + i);
            System.err.println("err " + i);
        }
    }
}
