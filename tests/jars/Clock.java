/**
 * Prints the time at which each line is printed, in milliseconds since the epoch.
 * Arguments: pause between lines in milliseconds, number of lines (0: until terminated).
 */
public final class Clock {
    public static void main(String[] args) throws InterruptedException {
        long pause = args.length > 0 ? Long.parseLong(args[0]) : 250;
        long lines = args.length > 1 ? Long.parseLong(args[1]) : 0;
        for (long i = 0; lines == 0 || i < lines; i++) {
            System.out.println("tick " + i + " " + System.currentTimeMillis());
            Thread.sleep(pause);
        }
    }
}
