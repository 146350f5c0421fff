/** Prints exactly two lines and succeeds. */
public final class Hello {
    public static void main(String[] args) {
        System.out.println("Hello, world!");
        System.out.println("Goodbye.");
    }
}
