/**
 * Prints numbered lines to both streams and dies at once, without any clean-up of the JVM.
 * Arguments: number of lines, exit code.
 */
public final class LastWords {
    public static void main(String[] args) {
        int lines = args.length > 0 ? Integer.parseInt(args[0]) : 2000;
        StringBuilder out = new StringBuilder();
        StringBuilder err = new StringBuilder();
        for (int i = 0; i < lines; i++) {
            out.append("last out ").append(i).append('\n');
            err.append("last err ").append(i).append('\n');
        }
        System.out.print(out);
        System.err.print(err);
        System.out.flush();
        Runtime.getRuntime().halt(args.length > 1 ? Integer.parseInt(args[1]) : 0);
    }
}
