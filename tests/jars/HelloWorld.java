/** Prints a line, and then the time in milliseconds since the epoch. */
public final class HelloWorld {
    public static void main(String[] args) {
        System.out.println("hello world");
        System.out.println(System.currentTimeMillis());
    }
}
